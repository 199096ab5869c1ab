"""The lessons in which the tiny GSVA learns to answer about scenes with masks (docs/tiny.md)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from tyro.conf import Suppress

from grounding_jax.data.scenes.compose import Scene, SceneSource, express
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import MAX_EXPRESSIONS, Expression
from grounding_jax.language.rows import IGNORED
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import llama, sam
from grounding_jax.sharding.rules import Rule
from grounding_jax.training.task import Recipe, Task
from grounding_jax.weights import folder
from gsva_jax import losses, model, prompts
from gsva_jax.config import GsvaConfig
from gsva_jax.data.arrays import canvas_masks, conversation_row, picture_arrays
from gsva_jax.losses import LossWeights
from gsva_jax.prompts import Round
from gsva_jax.sharding import table
from gsva_jax.tiny.pretraining import BACKGROUND, ENDLESS, EXTREMES, object_arrays, patch_owners, patch_values, teach
from gsva_jax.tiny.vocabulary import tiny_tokenizer
from gsva_jax.training.task import batch_loss

TEMPERATURE = 0.1  # of the likeness between patches and nouns


@dataclasses.dataclass(frozen=True)
class Answering(Task, Recipe):
    """GSVA learns to answer about scenes (docs/tiny.md).

    Attributes:
        model: sizes of the parts; the vocabulary is that of `tiny_tokenizer`.
        trainable: regular expressions on parameter paths: these are trained, the rest stays as it is.
        weights: weights of the loss terms.
        conversations: conversations about a scene, each with expressions of its own; branches of one row.
        length: tokens of a scene's conversations, picture included, T; shorter ones are padded.
        max_masks: most targets of a scene whose masks are learned, M; all its expressions are in the text. With 0, SAM
            is not computed.
        size: side of the scenes in pixels.
        split: objects and backgrounds of the scenes: "train", "val" or "test".
        decision_weight: weight of [SEG] and [REJ] among the tokens of an answer.
        imitation: weight of the distance between the prompts for the targets and those `MaskPretraining` taught SAM.
        alignment: weight of telling the kind of each patch, and whether it shows the leftmost, largest, ... of its
            kind, by its likeness to the embeddings of the words. The published CLIP knows words; ours does not, and
            so learns early which patches a word means.
        answers: numbers of the answers in `prompts.LIST_ANSWERS` that are used.
        official_share: share of the conversations in the words of the official evaluation.
        export_keys: see `Task`.
    """

    model: Suppress[GsvaConfig]
    trainable: Suppress[tuple[str, ...]]
    weights: LossWeights = LossWeights()
    conversations: int = 1
    length: int = 288
    max_masks: int = 3
    size: int = 144
    split: str = "train"
    decision_weight: float = 5.0
    imitation: float = 0.0
    alignment: float = 0.0
    answers: tuple[int, ...] = (0, 1)
    official_share: float = 0.1
    export_keys: Suppress[tuple[str, ...]] = ("llama", "clip", "projector", "prompt_mlp", "sam")

    start_keys: ClassVar[tuple[str, ...]] = ("helpers",)

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary."""
        return tiny_tokenizer()

    def init(self, key: jax.Array) -> dict:
        """A random model; the helpers come from the run of `MaskPretraining`."""
        return model.init(self.model, key)

    def import_params(self, params: dict) -> dict:
        """The start, whose SAM may have seen smaller pictures."""
        if "sam" not in params or "image_encoder" not in params["sam"]:
            return params
        encoder = sam.resize_positions(self.model.sam, params["sam"]["image_encoder"])
        return {**params, "sam": {**params["sam"], "image_encoder": encoder}}

    def sharding(self) -> tuple[Rule, ...]:
        """The table of the model."""
        return table(self.model)

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder with its vocabulary."""
        folder.save(place, folder.from_params(params), self.model.to_json(), self.tokenizer.save)

    def examples(self, seed: int) -> grain.MapDataset:
        """Scenes with their conversations."""
        source = SceneSource(seed + 2, self.split, ENDLESS, self.size)
        return grain.MapDataset.source(source).seed(seed).random_map(self.example)

    def example(self, scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One scene as arrays; ``imitated_*`` are those of all its targets that are there."""
        asked = [scene.expressions]
        asked += [express(rng, scene.objects, (self.size, self.size)) for _ in range(self.conversations - 1)]
        expressions = [expression for conversation in asked for expression in conversation]
        rounds = [[self.turn(conversation, rng)] for conversation in asked]
        row = conversation_row(self.model, self.tokenizer, rounds, self.length, len(expressions))
        things = object_arrays(scene)
        present = np.flatnonzero([bool(expression.objects) for expression in expressions])
        first = [expressions[j].objects[0] for j in present]
        imitated = {
            "positions": row["seg_positions"][present],
            "valid": row["target_valid"][present],
            "kind": things["kind"][first],
            "box": things["box"][first],
            "one_object": np.array([expressions[j].family != "all" for j in present]),
        }
        # Rejected targets have no gradient, and a few masks a scene teach as much per second as all of them.
        drawn = rng.permutation(present)[: self.max_masks]
        for name in ("seg_positions", "target_valid", "target_rejected"):
            row[name] = _padded(row[name][drawn], self.max_masks)
        masks = np.zeros((len(drawn), self.size, self.size), bool)
        for mask, j in zip(masks, drawn, strict=True):
            for k in expressions[j].objects:
                mask |= scene.objects[k].mask
        patch_owner = patch_owners(scene, self.model.clip)
        return {
            **picture_arrays(self.model, scene.image),
            **row,
            "masks": canvas_masks(masks, self.size, self.max_masks),
            "patch_kind": patch_values(things["kind"], patch_owner, BACKGROUND),
            "patch_extreme": patch_values(things["extreme"], patch_owner, -1),
            **{f"imitated_{name}": _padded(values, self.most_targets) for name, values in imitated.items()},
        }

    @property
    def most_targets(self) -> int:
        """That the conversations about a scene can have."""
        return self.conversations * MAX_EXPRESSIONS

    def turn(self, expressions: Sequence[Expression], rng: np.random.Generator) -> Round:
        """The question about some expressions and its answer, in words drawn at random."""
        texts = [expression.text for expression in expressions]
        rejected = [not expression.objects for expression in expressions]
        if rng.random() < self.official_share:
            return prompts.official_list(texts, rejected)
        question = prompts.list_question(texts, int(rng.integers(len(prompts.LIST_QUESTIONS))))
        return question, prompts.list_answer(texts, rejected, int(rng.choice(self.answers)))

    def prepare(self, batch: dict) -> dict:
        """Weights of the loss groups."""
        return losses.prepare(self.weights, batch, self.token_weight(batch["labels"]))

    def token_weight(self, labels: jax.Array) -> jax.Array:
        """Of each token of the answer: float32 ``[B, T]``."""
        return jnp.where(self.is_decision(labels), self.decision_weight, 1.0)

    def is_decision(self, labels: jax.Array) -> jax.Array:
        """Where [SEG] or [REJ] must be predicted: bool ``[B, T]``."""
        return (labels[..., None] == jnp.array([*self.tokenizer.seg, self.tokenizer.rej])).any(-1)

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """GSVA's loss, plus the imitation of SAM's teacher and the alignment of patches and words."""
        outputs = model.forward(self.model, params, batch)
        loss, scalars = batch_loss(self.model, self.weights, outputs, batch, self.token_weight(batch["labels"]))
        helpers = {}
        if self.imitation:
            helpers["imitation"], scalars["imitation_one"] = self.imitation_loss(params, outputs["hidden"], batch)
        if self.alignment:
            helpers["alignment"] = self.alignment_loss(params, outputs["patches"], batch)
        for name, value in helpers.items():
            loss = loss + getattr(self, name) * value
        right = outputs["logits"].argmax(-1) == batch["labels"]
        counted, is_decision = batch["labels"] != IGNORED, self.is_decision(batch["labels"])
        scalars["token_accuracy"] = (right & counted).sum() / counted.sum()
        scalars["decision_accuracy"] = (right & is_decision).sum() / is_decision.sum()
        present = batch["target_valid"] & ~batch["target_rejected"]
        scalars["present_dice"] = _present_dice(outputs["masks"], losses.unpack(batch["masks"]), present)
        return loss, {**scalars, **helpers}

    def imitation_loss(self, params: dict, hidden: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
        """Mean distance of the prompts of all targets from the teacher's, and that of targets that are one object."""
        if "helpers" not in params:
            raise ValueError("imitation needs the teacher of gsva_tiny_masks: train that first, or set imitation to 0")
        kind, box, one, valid = (batch[f"imitated_{name}"] for name in ("kind", "box", "one_object", "valid"))
        wanted = jax.lax.stop_gradient(teach(params, self.model.sam.prompt_width, kind, box, one))
        given = model.make_prompts(self.model, params, model.gather(hidden, batch["imitated_positions"]))
        distance = jnp.abs(given - wanted).mean(-1)
        pairs = ((jnp.where(among, distance, 0).sum(), jnp.maximum(among.sum(), 1)) for among in (valid, valid & one))
        return tuple(total / count for total, count in pairs)

    def alignment_loss(self, params: dict, patches: jax.Array, batch: dict) -> jax.Array:
        """How badly patches on objects are told by their cosine with the embeddings of words.

        Args:
            params: the whole tree.
            patches: projected patches ``[B, P, D]``.
            batch: ``patch_kind`` int32 ``[B, P]``, index into `cutouts.KINDS`, or `BACKGROUND`; ``patch_extreme`` int8
                ``[B, P, 6]``, see `object_arrays`.
        """
        nouns = [[self.tokenizer.encode(word)[0] for word in (kind.noun, kind.plural)] for kind in KINDS]
        extremes = [self.tokenizer.encode(word)[0] for word in EXTREMES]
        kinds, known = batch["patch_kind"], batch["patch_extreme"] >= 0
        by_noun = _cosine(patches, llama.embed(params["llama"], jnp.array(nouns)).mean(1)) / TEMPERATURE
        by_extreme = _cosine(patches, llama.embed(params["llama"], jnp.array(extremes))) / TEMPERATURE
        on_object = kinds != BACKGROUND
        noun_loss = optax.softmax_cross_entropy_with_integer_labels(by_noun, jnp.where(on_object, kinds, 0))
        extreme_loss = optax.sigmoid_binary_cross_entropy(by_extreme, (batch["patch_extreme"] == 1).astype(jnp.float32))
        noun_loss = jnp.where(on_object, noun_loss, 0).sum() / on_object.sum()
        return noun_loss + jnp.where(known, extreme_loss, 0).sum() / jnp.maximum(known.sum(), 1)


def _cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """``[B, P, D], [K, D] -> [B, P, K]``."""
    x, y = (z / jnp.linalg.norm(z, axis=-1, keepdims=True) for z in (x, y))
    return jnp.einsum("BPD,KD->BPK", x, y)


def _present_dice(low: jax.Array, masks: jax.Array, present: jax.Array) -> jax.Array:
    """Mean overlap (dice) of thresholded low-resolution masks with the targets that are there, for the log."""
    side = low.shape[-1]
    factor = masks.shape[-1] // side
    small = masks[..., factor // 2 :: factor, factor // 2 :: factor][..., :side, :side]
    guess = low > 0
    dice = 2 * (guess & small).sum((2, 3)) / jnp.maximum(guess.sum((2, 3)) + small.sum((2, 3)), 1)
    return jnp.where(present, dice, 0).sum() / jnp.maximum(present.sum(), 1)


def _padded(array: np.ndarray, length: int) -> np.ndarray:
    """Zeros behind the first axis up to a length."""
    return np.pad(array, [(0, length - len(array))] + [(0, 0)] * (array.ndim - 1))
