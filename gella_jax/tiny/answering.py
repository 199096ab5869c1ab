"""The lessons in which the tiny GELLA learns to answer about scenes with their masks (docs/tiny.md)."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from etils import epath
from tyro.conf import Suppress

from gella_jax import association, losses, model
from gella_jax.config import CATEGORIES_FILE
from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.tiny.pretraining import attribute_codes
from gella_jax.tiny.scenes import SceneMixture
from gella_jax.tiny.vocabulary import tiny_config, tiny_tokenizer
from gella_jax.training.task import GellaTask
from grounding_jax.data.scenes.narrated import CATEGORIES
from grounding_jax.files.writing import write_json
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.models import llama, llava
from grounding_jax.training.losses import cross_entropy
from grounding_jax.training.task import Recipe


@dataclasses.dataclass(frozen=True)
class SceneRecipe(Recipe):
    """GELLA learns to answer about scenes; its vocabulary is that of `tiny_tokenizer`.

    Attributes:
        trainable: regular expressions on parameter paths: these are trained, the rest stays as it is.
        masks: True lets the mask branch take part.
        imitation: weight of the distance between nouns, as the association sees them, and the codes of their attributes
            that `QueryPretraining` teaches the mask branch.
        association, segmentation: weights of L_asso and L_seg beside L_ans.
        points: points at which masks are compared.
    """

    trainable: Suppress[tuple[str, ...]]
    masks: bool = True
    imitation: float = 0.0
    association: float = 8.0
    segmentation: float = 0.2
    points: int = 256

    def task(self, start: epath.Path | None) -> TinyTask:
        """The task; the words of the start that the vocabulary has keep their rows."""
        model, tokenizer, rows = tiny_config(), tiny_tokenizer(), ()
        if start is not None and (start / tokenizers.FILE_NAME).exists():
            before = tokenizers.load_tokenizer(start)
            rows = tokenizers.token_rows(tokenizer, before)
            rows = () if rows == tuple(range(before.vocab_size)) else rows
        data = SceneMixture(model, tokenizer)
        terms = SegmentationWeights(points=self.points)
        return TinyTask(
            model,
            tokenizer,
            data,
            LossWeights(self.segmentation, self.association, terms=terms),
            self.trainable,
            "float32",
            new_rows_only=False,
            validation=dataclasses.replace(data, split="val"),
            best_metric="AR" if self.masks else "tokens",
            token_rows=rows,
            masks=self.masks,
            imitation=self.imitation,
        )


@dataclasses.dataclass(frozen=True)
class TinyTask(GellaTask):
    """`GellaTask` with attributes to imitate; see `SceneRecipe`."""

    masks: bool = True
    imitation: float = 0.0

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder; without the mask branch, of what was learned without it."""
        if not self.masks:
            learned = {name: params[name] for name in ("llama", "clip", "projector")}
            params = {**learned, "association": {"text": params["association"]["text"]}}
        super().save_model(place, params)
        known = [category._asdict() | {"isthing": int(category.isthing)} for category in CATEGORIES]
        write_json(place / CATEGORIES_FILE, known, indent=1)

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """GELLA's loss, or L_ans alone, and the imitation."""
        keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["example"])
        outputs = self.outputs(params, batch)
        if self.masks:
            loss, terms, _ = losses.batch_loss(self.weights, outputs, batch, keys)
        else:
            loss = (batch["token_weight"] * cross_entropy(outputs["logits"], batch["labels"])).mean()
            terms = {"answer": loss}
        if self.imitation:
            terms["imitation"] = self.imitation * self.imitation_loss(params, outputs["hidden"], batch)
            loss += terms["imitation"]
        return loss, terms

    def outputs(self, params: dict, batch: dict) -> dict:
        """As `model.forward`, or without the mask branch."""
        if self.masks:
            return model.forward(self.model, params, batch)
        features = model.encode_image(self.model, params, batch["clip_images"], batch["clip_resized"], jnp.float32)
        row, patches = (batch["ids"], batch["positions"], batch["branch"]), model.project(self.model, params, features)
        hidden, _ = llava.decode(self.model.llama, params["llama"], *row, patches)
        return {"hidden": hidden, "logits": llama.logits(self.model.llama, params["llama"], hidden)}

    def imitation_loss(self, params: dict, hidden: jax.Array, batch: dict) -> jax.Array:
        """Mean distance of nouns from their codes, in the space of the association."""
        width = self.model.association.width
        wanted = attribute_codes(width, batch["noun_kind"], batch["noun_relation"])
        states = model.noun_states(self.model, hidden, batch["seg_positions"])
        given = association.project(self.model.association, params["association"], "text", states)
        distance = jnp.abs(given - wanted).mean(-1)
        counted = batch["target_valid"]
        return jnp.where(counted, distance, 0.0).sum() / jnp.maximum(counted.sum(), 1)

    def measure(self, params: dict, batch: dict) -> tuple[dict, dict[str, jax.Array]]:
        """See `validation.measure`; without the mask branch, the tokens of the answers alone."""
        if self.masks:
            return super().measure(params, batch)
        learned = batch["labels"] >= 0
        right = (self.outputs(params, batch)["logits"].argmax(-1) == batch["labels"]) & learned
        return {"tokens": (right.sum(), learned.sum())}, {}
