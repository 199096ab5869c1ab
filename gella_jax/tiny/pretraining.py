"""What the tiny model's mask branch learns from scenes before it meets language (docs/tiny.md).

A 7B GELLA starts from a Mask2Former that others trained; ours starts from nothing. It learns to find the masks of a
colormap again, and to let its queries tell what they show: the association is taught with fixed codes of attributes, a
kind and a relation, in the place of words. The language model learns the same codes (`gella_jax.tiny.answering`), so
that the two understand each other when they meet. Layers that read kinds, places and
relations of matched queries (``helpers``) are not kept.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import ClassVar, Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath
from tyro.conf import Suppress

from gella_jax import association, losses, model
from gella_jax.config import GellaConfig
from gella_jax.data.arrays import entity_arrays, picture_arrays
from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.tiny.finding import kind_loss, matched, mean_of
from gella_jax.tiny.scenes import ENDLESS, KIND_OF, OTHER, RELATIONS, SIZE, Said, attribute_arrays, entities_of, said
from gella_jax.tiny.vocabulary import tiny_config
from gella_jax.training import validation
from grounding_jax.data.scenes.compose import measure
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import find_candidates
from grounding_jax.data.scenes.narrated import CATEGORIES, NarratedScene, NarratedSceneSource
from grounding_jax.models.layers import Linear
from grounding_jax.sharding.rules import REPLICATED, Rule
from grounding_jax.training.task import Recipe, Task
from grounding_jax.weights import folder

# Layers that read from matched queries, and what of: a kind; a box and a size; whether each relation holds.
HELPERS = {"kind": len(CATEGORIES), "extent": 5, "relation": len(RELATIONS) - 1}


def attribute_codes(width: int, kind: jax.Array, relation: jax.Array) -> jax.Array:
    """Where nouns lie in the space of the association: ``int32 [...], int32 [...] -> float32 [..., width]``.

    Kinds and relations have random directions, nearly at right angles, which add up.
    """
    rng = np.random.default_rng(0)
    kinds, relations = (
        jnp.array(rng.normal(size=(count, width)), jnp.float32) for count in (OTHER + 1, len(RELATIONS))
    )
    return kinds[kind] + relations[relation]


def all_nouns(scene: NarratedScene) -> list[Said]:
    """Every category, and everything that may be said of one of several of a kind."""
    kinds = np.array([KIND_OF[entity.kind] for entity in scene.entities])
    nouns = [
        Said(category.name, tuple(np.flatnonzero(kinds == number).tolist()), number, 0)
        for number, category in enumerate(CATEGORIES)
    ]
    things = [entity for entity in scene.entities if KIND_OF[entity.kind] < len(KINDS)]
    for candidate in find_candidates(*measure(things), scene.image.shape[1::-1]):
        if candidate.family in ("place", "size"):
            nouns.append(said(candidate.template.format(noun=KINDS[candidate.kind].noun), candidate.objects))
    return nouns


def told_by_queries(index: np.ndarray, meant: np.ndarray, nouns: Sequence[Said]) -> dict[str, np.ndarray]:
    """What the helpers' layers are to read from the queries of entities.

    Args:
        index: int16 ``[S, S]``, the number of the entity seen at a pixel, from 1.
        meant: bool ``[M, E]``.
        nouns: those of `all_nouns`, at most M.

    Returns:
        ``kinds`` int32 ``[E]``; ``extents`` float32 ``[E, 5]``, box and root of the area in parts of the picture;
        ``relations`` int8 ``[E, 6]``, for each of `RELATIONS` 1 if the entity is the one of its kind, 0 if another is,
        -1 if there is no such thing to say.
    """
    kinds = meant[: len(CATEGORIES)].argmax(0).astype(np.int32)  # the first nouns are the categories
    extents = np.zeros((len(kinds), HELPERS["extent"]), np.float32)
    relations = np.full((len(kinds), HELPERS["relation"]), -1, np.int8)
    for number in np.unique(index[index > 0]):
        rows, columns = np.nonzero(index == number)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        extents[number - 1] = (*box, np.sqrt(len(rows)))
    for noun, means in zip(nouns, meant, strict=False):
        if noun.relation:
            relations[kinds == noun.kind, noun.relation - 1] = 0
            relations[means, noun.relation - 1] = 1
    return {"kinds": kinds, "extents": extents / len(index), "relations": relations}


@dataclasses.dataclass(frozen=True)
class QueryPretraining(Task, Recipe):
    """The mask branch learns what its queries are to tell, with a frozen CLIP.

    Attributes:
        blend, without, colours, association_kind: changes of the model, see `GellaConfig.rewired`.
        segmentation, association: weights of L_seg and L_asso.
        kind, extent, relation: weights of what layers of their own read from matched queries: a kind, a box and a size,
            and whether it is the left one, ..., the smallest of several of its kind.
        points: points at which masks are compared.
        max_nouns: nouns of a scene at most, M.
        split: objects and backgrounds of the scenes: "train", "val" or "test".
        trainable, export_keys, best_metric: see `Task`.
    """

    blend: Literal["", "paper", "skip", "mask_query"] = ""
    without: tuple[Literal["sa", "ca", "ff", "res", "conv"], ...] = ()
    colours: Literal["", "random", "location"] = ""
    association_kind: Literal["", "fc", "fc_relu_fc"] = ""
    segmentation: float = 0.2
    association: float = 8.0
    kind: float = 2.0
    extent: float = 2.0
    relation: float = 2.0
    points: int = 256
    max_nouns: int = 72
    split: str = "train"
    trainable: Suppress[tuple[str, ...]] = ("backbone", "blend", "mask2former", "association/query", "helpers")
    export_keys: Suppress[tuple[str, ...]] = ("clip", "backbone", "blend", "mask2former", "association")
    best_metric: ClassVar[str] = "AR"

    @functools.cached_property
    def model(self) -> GellaConfig:
        """Sizes of the parts."""
        return tiny_config().rewired(self.blend, self.without, self.colours, self.association_kind)

    def init(self, key: jax.Array) -> dict:
        """Random mask branch and helpers; CLIP has to come from the start."""
        keys = jax.random.split(key, 1 + len(HELPERS))
        params = model.init(self.model, keys[0])
        state = jnp.zeros((1, self.model.mask2former.width))
        readers = zip(HELPERS.items(), keys[1:], strict=True)
        helpers = {name: Linear(width).init(key, state)["params"] for (name, width), key in readers}
        kept = {name: params[name] for name in self.export_keys if name in params}
        return {**kept, "association": {"query": params["association"]["query"]}, "helpers": helpers}

    def sharding(self) -> tuple[Rule, ...]:
        """Small enough to be whole everywhere."""
        return ((".*", REPLICATED),)

    def save_model(self, place: epath.Path, params: dict) -> None:
        """Writes a model folder without a vocabulary."""
        folder.save(place, folder.from_params(params), self.model.to_json())

    @property
    def weights(self) -> LossWeights:
        """Of the losses."""
        return LossWeights(self.segmentation, self.association, terms=SegmentationWeights(points=self.points))

    def examples(self, seed: int) -> grain.MapDataset:
        """Scenes with all their nouns."""
        source = NarratedSceneSource(seed, self.split, ENDLESS, SIZE)
        return grain.MapDataset.source(source).seed(seed).random_map(self.example)

    def validation_dataset(self) -> grain.MapDataset:
        """Scenes of other backgrounds."""
        return dataclasses.replace(self, split="val").examples(seed=0)

    def example(self, scene: NarratedScene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One scene as arrays."""
        nouns = all_nouns(scene)[: self.max_nouns]
        arrays = entity_arrays(self.model, entities_of(scene), [noun.entities for noun in nouns], self.max_nouns, rng)
        absent = np.zeros(self.max_nouns, bool)
        absent[: len(nouns)] = [not noun.entities for noun in nouns]
        return {
            **arrays,
            **picture_arrays(self.model, scene.image),
            "segmented": np.array(True),
            "absent": absent,
            **attribute_arrays(nouns, self.max_nouns),
            **told_by_queries(arrays["index"], arrays["meant"], nouns),
        }

    def prepare(self, batch: dict) -> dict:
        """What the sums of each picture are multiplied with."""
        return losses.prepare(self.weights, batch, self.model.mask2former.queries)

    def outputs(self, params: dict, batch: dict) -> dict:
        """As `model.forward`, with attributes in the place of words."""
        features = model.encode_image(self.model, params, batch["clip_images"], batch["clip_resized"], jnp.float32)
        entities = model.segment(self.model, params, features, batch["colormaps"], jnp.float32)
        c = self.model.association
        queries = association.project(c, params["association"], "query", entities.last.queries)
        nouns = attribute_codes(c.width, batch["noun_kind"], batch["noun_relation"])
        return {"entities": entities, "association": association.products(nouns, queries)}

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """L_seg, L_asso and the kinds of the queries."""
        keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["example"])
        outputs = self.outputs(params, batch)
        loss, terms, queries = losses.batch_loss(self.weights, outputs, batch, keys)
        helped, told = self.helpers(params["helpers"], outputs["entities"].last.queries, queries, batch)
        return loss + helped, {**terms, **told}

    def helpers(
        self, layers: dict, states: jax.Array, query_of_entity: jax.Array, batch: dict
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum of what the helpers' layers get wrong, and its parts."""
        states, visible = matched(states, query_of_entity), batch["visible"]
        kind, kind_accuracy = kind_loss(layers["kind"], states, batch["kinds"], visible)
        extents = Linear(HELPERS["extent"]).apply({"params": layers["extent"]}, states)
        extent = mean_of(jnp.abs(extents - batch["extents"]).mean(-1), visible)
        logits = Linear(HELPERS["relation"]).apply({"params": layers["relation"]}, states)
        counted, holds = visible[..., None] & (batch["relations"] >= 0), batch["relations"] > 0
        relation = mean_of(optax.sigmoid_binary_cross_entropy(logits, holds.astype(logits.dtype)), counted)
        terms = {"kind": kind, "extent": extent, "relation": relation, "kind_accuracy": kind_accuracy}
        terms["relation_accuracy"] = mean_of((logits > 0) == holds, counted)
        return self.kind * kind + self.extent * extent + self.relation * relation, terms

    def measure(self, params: dict, batch: dict) -> tuple[validation.Sums, dict[str, jax.Array]]:
        """See `validation.measure`."""
        return validation.measure(self.outputs(params, batch), batch)[0], {}

    def draw(self, example: dict, shown: dict) -> np.ndarray:
        """The colormap."""
        return example["colormaps"]
