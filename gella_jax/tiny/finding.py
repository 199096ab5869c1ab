"""The lesson of the tiny model's mask finder: a class-agnostic Mask2Former that looks at scenes (docs/tiny.md)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from gella_jax import losses
from gella_jax.colormap import draw_entities
from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.model import EntityPredictions
from gella_jax.tiny.scenes import ENDLESS, KIND_OF, entities_of
from gella_jax.tiny.vocabulary import tiny_config
from gella_jax.training import validation
from grounding_jax import weights
from grounding_jax.data.scenes.narrated import CATEGORIES, NarratedScene, NarratedSceneSource
from grounding_jax.files.writing import write_json
from grounding_jax.models import mask2former, swin
from grounding_jax.models.layers import Linear
from grounding_jax.models.normalize import normalize_sam
from grounding_jax.models.swin import SwinConfig
from grounding_jax.sharding.rules import REPLICATED, Rule
from grounding_jax.training.task import Recipe, Task
from grounding_jax.weights import folder
from grounding_jax.weights.writers import write_safetensors

BACKBONE = SwinConfig(24, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), window=8, drop_path=0.0)
DECODERS = dataclasses.replace(tiny_config().mask2former, queries=20)  # of maps of the same widths


@dataclasses.dataclass(frozen=True)
class MaskFinding(Task, Recipe):
    """A Mask2Former finds the entities of scenes, whatever they are called.

    Attributes:
        side: side in pixels of the pictures that it sees.
        kind: weight of telling the kind of each matched query by a layer of its own (``helpers``), which is not kept.
        points: points at which masks are compared.
        split: objects and backgrounds of the scenes: "train", "val" or "test".
    """

    side: int = 128
    kind: float = 1.0
    points: int = 256
    split: str = "train"

    trainable: ClassVar[tuple[str, ...]] = ("backbone", "mask2former", "helpers")
    export_keys: ClassVar[tuple[str, ...]] = ("backbone", "mask2former")
    best_metric: ClassVar[str] = "mask_IoU"

    def init(self, key: jax.Array) -> dict:
        """Random parameters."""
        keys = jax.random.split(key, 3)
        return {
            "backbone": swin.init(BACKBONE, keys[0]),
            "mask2former": mask2former.init(DECODERS, keys[1]),
            "helpers": Linear(len(CATEGORIES)).init(keys[2], jnp.zeros((1, DECODERS.width)))["params"],
        }

    def sharding(self) -> tuple[Rule, ...]:
        """Small enough to be whole everywhere."""
        return ((".*", REPLICATED),)

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a folder as Hugging Face's transformers have it, which `segmenters.load_segmenter` takes."""
        place.mkdir(parents=True, exist_ok=True)
        leaves = folder.from_params(params)
        tensors = weights.mask2former.transformers_with_swin("mask2former/").to_torch(leaves, str(place))
        write_safetensors(place, tensors)
        size = {"shortest_edge": self.side, "longest_edge": 2 * self.side}
        write_json(place / "preprocessor_config.json", {"size": size, "size_divisor": 32}, indent=2)
        dtype = next(iter(leaves.values())).dtype
        write_json(place / folder.CONFIG_FILE, weights.mask2former.public(DECODERS, BACKBONE, dtype), indent=2)

    def read_start(self, place: epath.Path) -> dict:
        """The parameters of such a folder, or of any Mask2Former of the same sizes."""
        (_, backbone), (_, decoders) = (part.load(place, np.float32) for part in (weights.swin, weights.mask2former))
        return {"backbone": backbone, "mask2former": decoders}

    def examples(self, seed: int) -> grain.MapDataset:
        """Scenes, those of `QueryPretraining` excepted."""
        source = NarratedSceneSource(seed + 3, self.split, ENDLESS, self.side)
        return grain.MapDataset.source(source).map(self.example)

    def validation_dataset(self) -> grain.MapDataset:
        """Scenes of other backgrounds."""
        return dataclasses.replace(self, split="val").examples(seed=0)

    def example(self, scene: NarratedScene) -> dict[str, np.ndarray]:
        """One scene as arrays; ``kinds`` int32 ``[E]`` are those of its entities."""
        entities = entities_of(scene)
        drawn = draw_entities(entities.masks, np.zeros(len(entities.masks)), self.side)
        visible, kinds = np.zeros(DECODERS.queries, bool), np.zeros(DECODERS.queries, np.int32)
        visible[: len(drawn.visible)] = drawn.visible
        kinds[: len(drawn.visible)] = [KIND_OF[entity.kind] for entity in scene.entities]
        return {"image": scene.image, "index": drawn.index.astype(np.int16), "visible": visible, "kinds": kinds}

    @property
    def weights(self) -> LossWeights:
        """Of the losses."""
        return LossWeights(terms=SegmentationWeights(points=self.points))

    def prepare(self, batch: dict) -> dict:
        """What the sums of each picture are multiplied with."""
        batch = {**batch, "segmented": jnp.ones(len(batch["image"]), bool)}
        return losses.prepare(self.weights, batch, DECODERS.queries)

    def outputs(self, params: dict, batch: dict) -> dict:
        """Entities, as of `model.forward`."""
        size = jnp.full((len(batch["image"]), 2), self.side)
        maps = swin.pyramid(BACKBONE, params["backbone"], normalize_sam(batch["image"], size))
        return {"entities": EntityPredictions(*mask2former.predict(DECODERS, params["mask2former"], maps))}

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """L_seg and the kinds of the queries."""
        keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["example"])
        outputs = self.outputs(params, batch)
        loss, terms, queries = losses.batch_loss(self.weights, outputs, batch, keys)
        states = matched(outputs["entities"].last.queries, queries)
        kind, accuracy = kind_loss(params["helpers"], states, batch["kinds"], batch["visible"])
        return loss + self.kind * kind, {**terms, "kind": kind, "kind_accuracy": accuracy}

    def measure(self, params: dict, batch: dict) -> tuple[validation.Sums, dict[str, jax.Array]]:
        """See `validation.measure`."""
        return validation.measure(self.outputs(params, batch), batch)

    def draw(self, example: dict, shown: dict) -> np.ndarray:
        """The scene."""
        del shown
        return example["image"]


def matched(states: jax.Array, query_of_entity: jax.Array) -> jax.Array:
    """The states of the queries that entities were given: ``[B, Q, D], int32 [B, E] -> [B, E, D]``."""
    return jnp.take_along_axis(states, jnp.maximum(query_of_entity, 0)[..., None], axis=1)


def kind_loss(layer: dict, states: jax.Array, kinds: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross entropy of the kinds of entities read from their queries, and the share that is right.

    Args:
        layer: parameters of the linear layer that reads.
        states: ``[B, E, D]``, see `matched`.
        kinds: int32 ``[B, E]``.
        visible: bool ``[B, E]``, the entities that count.
    """
    logits = Linear(len(CATEGORIES)).apply({"params": layer}, states)
    terms = optax.softmax_cross_entropy_with_integer_labels(logits, kinds)
    return mean_of(terms, visible), mean_of(logits.argmax(-1) == kinds, visible)


def mean_of(values: jax.Array, counted: jax.Array) -> jax.Array:
    """The mean of those that count; 0 if none does."""
    return jnp.where(counted, values, 0.0).sum() / jnp.maximum(counted.sum(), 1)
