"""Training GSVA: answers with masks, on any source of pictures and expressions."""

from __future__ import annotations

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from grounding_jax.data.cutouts import KINDS
from grounding_jax.data.scenes import Scene, SceneSource
from grounding_jax.language.rows import IGNORED
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import llama
from grounding_jax.models.mask_resize import canvas_matrices
from gsva_jax import losses, model, prompts
from gsva_jax.config import GsvaConfig
from gsva_jax.data import canvas_masks, conversation_row, picture_arrays
from gsva_jax.losses import LossWeights
from gsva_jax.pretraining import BACKGROUND, ENDLESS, object_arrays, patch_kinds, teach

# What the paper trains (spec gsva e): LoRA, embeddings, head, SAM's mask decoder, the MLP to its prompts.
TRAINED = ("llama/layers/attn/[qv]/lora_", "llama/embed", "llama/head", "sam/mask_decoder", "prompt_mlp")

TEMPERATURE = 0.1  # of the likeness between patches and nouns


def batch_loss(
    config: GsvaConfig,
    weights: LossWeights,
    outputs: dict,
    batch: dict,
    token_weight: jax.Array | float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a forward pass (spec gsva a.10, d).

    Args:
        config: sizes.
        weights: of the terms.
        outputs: of `model.forward`.
        batch: row arrays, ``resized`` and ``original`` int32 ``[B, 2]``, and ``masks`` bool ``[B, M, canvas, canvas]``.
        token_weight: see `losses.cross_entropy`.

    Returns:
        ``(loss, {"ce", "bce", "dice", "mask"})``.
    """
    low, frame, canvas = config.sam.low_res, config.sam.image_size, batch["masks"].shape[-1]

    def matrices(resized, original):
        return canvas_matrices(low, frame, canvas, resized, original)

    rows, columns, inside = jax.vmap(matrices)(batch["resized"], batch["original"])
    bce, dice = losses.resized_mask_terms(outputs["masks"], rows, columns, inside, batch["masks"])
    ce = losses.cross_entropy(outputs["logits"], batch["labels"], token_weight)
    return losses.total(weights, ce, bce, dice, batch["target_valid"])


@dataclasses.dataclass(frozen=True)
class Answering:
    """GSVA learns to answer about scenes (docs/tiny.md).

    Attributes:
        model: sizes.
        tokenizer: the vocabulary.
        trainable: regular expressions on parameter paths of what is trained.
        weights: of the loss terms.
        length: T, slots of a row.
        max_masks: M, targets of a scene whose masks are learned; all its expressions are in the text.
        size: side of the scenes in pixels.
        split: of the scenes.
        decision_weight: weight of [SEG] and [REJ] among the tokens of an answer.
        imitation: weight of the distance between the prompt for a target and the one `MaskPretraining` taught SAM.
        alignment: weight of telling the kind of each patch by its likeness to the embeddings of the nouns. The
            published CLIP knows words; ours does not, and so learns early which patches a noun means.
        answers: which of `prompts.LIST_ANSWERS` are used.
        official_share: of the conversations in the words of the official evaluation.
        kept: see `loop.Task`.
    """

    model: GsvaConfig
    tokenizer: Tokenizer
    trainable: tuple[str, ...]
    weights: LossWeights = LossWeights()
    length: int = 288
    max_masks: int = 3
    size: int = 144
    split: str = "train"
    decision_weight: float = 5.0
    imitation: float = 0.0
    alignment: float = 0.0
    answers: tuple[int, ...] = (0, 1)
    official_share: float = 0.1
    kept: tuple[str, ...] = ("llama", "clip", "projector", "prompt_mlp", "sam")

    def init(self, key: jax.Array) -> dict:
        """A random model; the helpers come from the run of `MaskPretraining`."""
        return model.init(self.model, key)

    def examples(self, seed: int) -> grain.MapDataset:
        """Scenes with one conversation each."""
        source = SceneSource(seed + 2, self.split, ENDLESS, self.size)
        return grain.MapDataset.source(source).seed(seed).random_map(self.example)

    def example(self, scene: Scene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One scene as arrays, with the kind and box of every target for the imitation."""
        expressions = scene.expressions
        texts = [expression.text for expression in expressions]
        rejected = [not expression.objects for expression in expressions]
        if rng.random() < self.official_share:
            turn = prompts.official_list(texts, rejected)
        else:
            question = prompts.list_question(texts, int(rng.integers(len(prompts.LIST_QUESTIONS))))
            turn = question, prompts.list_answer(texts, rejected, int(rng.choice(self.answers)))
        row = conversation_row(self.model, self.tokenizer, [[turn]], self.length, len(texts))
        # Rejected targets have no gradient, and a few masks a scene teach as much per second as all of them.
        drawn = rng.permutation(np.flatnonzero(~np.array(rejected)))[: self.max_masks]
        for name in ("seg_positions", "target_valid", "target_rejected"):
            row[name] = _padded(row[name][drawn], self.max_masks)
        masks = np.zeros((len(drawn), self.size, self.size), bool)
        for mask, j in zip(masks, drawn, strict=True):
            for k in expressions[j].objects:
                mask |= scene.objects[k].mask
        things = object_arrays(scene)
        first = [expressions[j].objects[0] for j in drawn]
        return {
            **picture_arrays(self.model, scene.image),
            **row,
            "masks": canvas_masks(masks, self.size, self.max_masks),
            "patch_kind": patch_kinds(scene, things["kind"], self.model.clip),
            "kind": _padded(things["kind"][first], self.max_masks),
            "box": _padded(things["box"][first], self.max_masks),
            "one_object": _padded(np.array([expressions[j].family != "all" for j in drawn]), self.max_masks),
        }

    def loss(self, params: dict, batch: dict, step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """GSVA's loss, plus the imitation of SAM's teacher."""
        outputs = model.forward(self.model, params, batch)
        decisions = jnp.array([*self.tokenizer.seg, self.tokenizer.rej])
        is_decision = (batch["labels"][..., None] == decisions).any(-1)
        token_weight = jnp.where(is_decision, self.decision_weight, 1.0)
        loss, scalars = batch_loss(self.model, self.weights, outputs, batch, token_weight)
        present = batch["target_valid"] & ~batch["target_rejected"]
        if self.imitation:
            if "helpers" not in params:
                raise ValueError(
                    "imitation needs the teacher of gsva_tiny_masks: train that first, or set imitation to 0"
                )
            width = self.model.sam.prompt_width
            wanted = teach(params, width, batch["kind"], batch["box"], batch["one_object"])
            distance = jnp.abs(outputs["prompts"] - jax.lax.stop_gradient(wanted)).mean(-1)
            scalars["imitation"] = jnp.where(present, distance, 0).sum() / present.sum()
            loss = loss + self.imitation * scalars["imitation"]
        if self.alignment:
            distance = self.alignment_loss(params, outputs["patches"], batch["patch_kind"])
            scalars["alignment"] = distance
            loss = loss + self.alignment * distance
        right = outputs["logits"].argmax(-1) == batch["labels"]
        counted = batch["labels"] != IGNORED
        scalars["token_accuracy"] = (right & counted).sum() / counted.sum()
        scalars["decision_accuracy"] = (right & is_decision).sum() / is_decision.sum()
        return loss, {**scalars, "present_dice": _present_dice(outputs["masks"], batch["masks"], present)}

    def alignment_loss(self, params: dict, patches: jax.Array, kinds: jax.Array) -> jax.Array:
        """Cross entropy of the kind of each patch that shows an object, by cosine with the nouns' embeddings.

        Args:
            params: the whole tree.
            patches: projected patches ``[B, P, D]``.
            kinds: int32 ``[B, P]``, index into `cutouts.KINDS`, or `BACKGROUND`.
        """
        nouns = [[self.tokenizer.encode(word)[0] for word in (kind.noun, kind.plural)] for kind in KINDS]
        words = llama.embed(params["llama"], jnp.array(nouns)).mean(1)
        patches, words = (x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (patches, words))
        likeness = jnp.einsum("BPD,KD->BPK", patches, words) / TEMPERATURE
        on_object = kinds != BACKGROUND
        loss = optax.softmax_cross_entropy_with_integer_labels(likeness, jnp.where(on_object, kinds, 0))
        return jnp.where(on_object, loss, 0).sum() / on_object.sum()


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
