"""What the tiny model is told about a scene: captions, expressions and categories, and what they mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import grain
import numpy as np

from gella_jax import prompts
from gella_jax.config import GellaConfig
from gella_jax.data.arrays import example_arrays
from gella_jax.data.samplers import Sample, describe_round, nouns_round
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.narrated import CATEGORIES, NarratedScene, NarratedSceneSource
from grounding_jax.data.scenes.narratives import narrate
from grounding_jax.language.conversation import Round
from grounding_jax.language.rows import encode_conversation, row_length
from grounding_jax.language.tokenizer import Tokenizer

ENDLESS = 2**31  # scenes are made on the fly, so an epoch never ends
SIZE = 144  # side of the scenes in pixels

RELATIONS = ("", "left", "right", "top", "bottom", "largest", "smallest")
KIND_OF = {category.name: number for number, category in enumerate(CATEGORIES)}
KIND_OF |= {kind.plural: KIND_OF[kind.noun] for kind in KINDS}
OTHER = len(CATEGORIES)  # what is no kind of thing, such as the weather


class Said(NamedTuple):
    """A noun: its text, the places of the entities that it means, and the attributes that tell them.

    Attributes:
        text: the noun.
        entities: places of those that are meant; none for what is not there.
        kind: index into `CATEGORIES`, or `OTHER`.
        relation: index into `RELATIONS`.
    """

    text: str
    entities: tuple[int, ...]
    kind: int
    relation: int


Conversation = tuple[Round, list[Said]]  # a question with its answer, and the nouns of that


def said(text: str, entities: tuple[int, ...]) -> Said:
    """A noun; its words tell its kind and its relation."""
    words = text.split()
    relation = next((number for number, word in enumerate(RELATIONS) if word in words), 0)
    return Said(text, entities, KIND_OF.get(words[-1], OTHER), relation)


def attribute_arrays(nouns: Sequence[Said], max_nouns: int) -> dict[str, np.ndarray]:
    """``noun_kind`` and ``noun_relation`` int32 ``[M]`` of nouns."""
    attributes = np.zeros((2, max_nouns), np.int32)
    attributes[:, : len(nouns)] = np.array([(noun.kind, noun.relation) for noun in nouns], np.int32).T
    return {"noun_kind": attributes[0], "noun_relation": attributes[1]}


def entities_of(scene: NarratedScene) -> Entities:
    """The masks of a scene, called by their kinds."""
    names = tuple(entity.kind for entity in scene.entities)
    masks = np.stack([entity.mask for entity in scene.entities])
    return Entities(masks, tuple(range(len(names))), names, category_ids=scene.category_ids)


@dataclasses.dataclass(frozen=True)
class SceneMixture:
    """Scenes and conversations about them, as arrays of fixed shapes, see `arrays.example_arrays`.

    Attributes:
        model: sizes.
        tokenizer: the vocabulary.
        split: objects and backgrounds of the scenes: "train", "val" or "test".
        length: T, slots of a row.
        max_nouns: M, nouns of all conversations.
        narratives: captions of a scene whose nouns are asked for.
        expressions: expressions about a scene.
        categories: names of a vocabulary, some of which are in the picture.
        whole_share: share of the scenes about which the whole vocabulary is asked, and one caption, but nothing else.
    """

    model: GellaConfig
    tokenizer: Tokenizer
    split: str = "train"
    length: int = 608
    max_nouns: int = 64
    narratives: int = 2
    expressions: int = 2
    categories: int = 8
    whole_share: float = 0.2

    def __call__(self, seed: int) -> grain.MapDataset:
        """Endless examples."""
        source = NarratedSceneSource(seed, self.split, ENDLESS, SIZE)
        return grain.MapDataset.source(source).seed(seed).random_map(self.example)

    def example(self, scene: NarratedScene, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One scene as arrays, with ``noun_kind`` and ``noun_relation`` int32 ``[M]`` of its nouns."""
        told = self.fitting(self.conversations(scene, rng))
        nouns = [noun for _, nouns in told for noun in nouns]
        sample = Sample(
            [[turn] for turn, _ in told],
            entities_of(scene),
            tuple(noun.entities for noun in nouns),
            tuple(not noun.entities for noun in nouns),
        )
        arrays = example_arrays(self.model, self.tokenizer, scene.image, sample, self.length, self.max_nouns, rng)
        return {**arrays, **attribute_arrays(nouns, self.max_nouns)}

    def fitting(self, told: Sequence[Conversation]) -> Sequence[Conversation]:
        """As many of the conversations as a row has room for."""
        template, patches = prompts.TEMPLATES["plain"], self.model.clip.num_patches
        texts = [template.conversation([turn]) for turn, _ in told]
        encoded = [encode_conversation(self.tokenizer, text, template.separator) for text in texts]
        fits = [row_length(self.tokenizer, encoded[: n + 1], patches) <= self.length for n in range(len(told))]
        return told[: sum(fits)]

    def conversations(self, scene: NarratedScene, rng: np.random.Generator) -> list[Conversation]:
        """What is asked about a scene, the most important first."""
        size, whole = scene.image.shape[1::-1], rng.random() < self.whole_share
        count = 1 if whole else self.narratives
        narratives = [scene.narrative, *(narrate(rng, scene.entities, size) for _ in range(count - 1))]
        asked = [(n.caption, [said(p.text, p.entities) for p in n.phrases]) for n in narratives]
        names, of_category = self._vocabulary(scene, rng, len(CATEGORIES) if whole else self.categories)
        asked.insert(0 if whole else len(asked), (prompts.panoptic_caption(names), of_category))
        if not whole:
            for k in rng.permutation(len(scene.expressions))[: self.expressions]:
                expression = scene.expressions[k]
                asked.append((expression.text, [said(expression.text, expression.objects)]))
        told = [(nouns_round(caption, [noun.text for noun in nouns], rng), nouns) for caption, nouns in asked]
        if not whole:
            told.append((describe_round(narrate(rng, scene.entities, size).caption, rng), []))
        return told

    def _vocabulary(self, scene: NarratedScene, rng: np.random.Generator, count: int) -> tuple[list[str], list[Said]]:
        """So many names in the order of the categories, at least one of them in the picture."""
        kinds = np.array([KIND_OF[entity.kind] for entity in scene.entities])
        present, others = np.unique(kinds), np.setdiff1d(np.arange(len(CATEGORIES)), kinds)
        if count < len(CATEGORIES):
            present = rng.permutation(present)[: int(rng.integers(1, count))]
        chosen = np.sort(np.concatenate([present, rng.permutation(others)[: count - len(present)]]))
        names = [CATEGORIES[number].spoken for number in chosen]
        nouns = [
            Said(name, tuple(np.flatnonzero(kinds == number).tolist()), int(number), 0)
            for name, number in zip(names, chosen, strict=True)
        ]
        return names, nouns
