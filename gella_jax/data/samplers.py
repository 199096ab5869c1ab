"""What is drawn of a record for training, task by task (spec gella b, c, A11).

Each sampler turns one record of a source into a `Sample`: conversations about the picture, its entities, and which of
them every noun means. Randomness comes from a generator that belongs to the example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gella_jax import prompts
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.sources.entityseg import CocoEntityRecord, EntityRecord
from grounding_jax.data.sources.instructions import InstructionRecord
from grounding_jax.data.sources.llava_instruct import VqaRecord
from grounding_jax.data.sources.narratives import NarrativeRecord
from grounding_jax.data.sources.panoptic import PanopticRecord
from grounding_jax.data.sources.panoptic_classes import Category
from grounding_jax.data.sources.refer import Record
from grounding_jax.language.conversation import Round, talk_rounds
from grounding_jax.training.mixture import Unusable

MOST_EXPRESSIONS = 4  # about one picture; each is a conversation of its own


class Sample(NamedTuple):
    """What is learned about one picture.

    Attributes:
        conversations: each a list of rounds; branches of one row.
        entities: the true masks; None where nothing is known of them.
        meant: for each noun of all conversations in turn, the ids of the entities that it means.
        absent: for each, whether it is known to mean none. What neither means any nor is absent is not told.
    """

    conversations: list[list[Round]]
    entities: Entities | None = None
    meant: tuple[tuple[int, ...], ...] = ()
    absent: tuple[bool, ...] = ()


class Draw(NamedTuple):
    """What samplers draw with.

    Attributes:
        rng: generator of the example.
        max_nouns: the most nouns of an example.
        ungrounded: meaning of a narrative's noun without masks: "ignore", not told, or "negative", absent.
        categories: all those of the source.
    """

    rng: np.random.Generator
    max_nouns: int
    ungrounded: str = "ignore"
    categories: Sequence[Category] = ()


def nouns_round(sentence: str, nouns: Sequence[str], rng: np.random.Generator) -> Round:
    """The question for the nouns of a sentence, in words drawn at random, and its answer."""
    question = prompts.nouns_question(sentence, int(rng.integers(len(prompts.NOUN_QUESTIONS))))
    return question, prompts.nouns_answer(nouns)


def describe_round(description: str, rng: np.random.Generator) -> Round:
    """The question for a description, in words drawn at random, and its answer."""
    question = prompts.describe_question(int(rng.integers(len(prompts.DESCRIPTION_QUESTIONS))))
    return question, prompts.description_answer(description)


def sample_description(record: VqaRecord | NarrativeRecord | InstructionRecord, draw: Draw) -> Sample:
    """A conversation of LLaVA-Instruct as it is, or a caption as the description of its picture; text alone."""
    if isinstance(record, VqaRecord):
        return Sample([talk_rounds(record.turns)])
    return Sample([[describe_round(record.caption, draw.rng)]])


def sample_nouns(record: NarrativeRecord | InstructionRecord, draw: Draw) -> Sample:
    """The nouns of a caption; entities may be known, but not which of them are meant.

    Raises:
        Unusable: the caption has no noun.
    """
    nouns = record.raw_expressions
    if not nouns:
        raise Unusable("the caption has no noun")
    rounds = [[nouns_round(record.caption, nouns, draw.rng)]]
    return Sample(rounds, record.entities, ((),) * len(nouns), (False,) * len(nouns))


def sample_narrative(record: NarrativeRecord | InstructionRecord, draw: Draw) -> Sample:
    """The nouns of a caption and what they mean.

    Raises:
        Unusable: the caption has no noun, or there are no masks that they could mean.
    """
    sample = sample_nouns(record, draw)
    if sample.entities is None:
        raise Unusable("there are no masks that nouns could mean")
    absent = tuple(draw.ungrounded == "negative" and not ids for ids in record.segment_ids)
    return sample._replace(meant=record.segment_ids, absent=absent)


def sample_expressions(record: Record, draw: Draw) -> Sample:
    """Some expressions about a picture; each is its own noun, and the candidates are all of its instances.

    Raises:
        Unusable: there is no expression.
        ValueError: nothing tells which instances they mean.
    """
    if record.instance_ids is None:
        raise ValueError(f"nothing tells which instances are meant in {record.image}; if that is packed, pack it again")
    drawn = draw.rng.permutation(len(record.raw_expressions))[: min(MOST_EXPRESSIONS, draw.max_nouns)]
    if not len(drawn):
        raise Unusable("there is no expression")
    texts = [prompts.clean_noun(record.raw_expressions[j]) for j in drawn]
    rounds = [[nouns_round(text, [text], draw.rng)] for text in texts]
    meant = tuple(record.instance_ids[j] for j in drawn)
    return Sample(rounds, record.entities, meant, tuple(not ids for ids in meant))


def sample_categories(record: PanopticRecord, draw: Draw) -> Sample:
    """A vocabulary as the caption, and which entities are of each category.

    Of a vocabulary with more names than there is room for, all those in the picture and some others.

    Raises:
        ValueError: the picture has more categories than there is room for.
    """
    present = {segment["category_id"] for segment in record.segments}
    others = [place for place, category in enumerate(draw.categories) if category.id not in present]
    room = draw.max_nouns - len(present)
    if room < 0:
        raise ValueError(f"image {record.image_id} has {len(present)} categories, room is for {draw.max_nouns} nouns")
    left_out = set(draw.rng.permutation(others)[room:].tolist())
    chosen = [category for place, category in enumerate(draw.categories) if place not in left_out]
    names = [category.spoken for category in chosen]
    of_category = [
        tuple(s["id"] for s in record.segments if s["category_id"] == category.id and not s.get("iscrowd"))
        for category in chosen
    ]
    rounds = [[nouns_round(prompts.panoptic_caption(names), names, draw.rng)]]
    absent = tuple(category.id not in present for category in chosen)
    return Sample(rounds, record.entities, tuple(of_category), absent)


def sample_entities(record: EntityRecord | CocoEntityRecord | PanopticRecord, draw: Draw) -> Sample:
    """Entities alone, about which nothing is said."""
    del draw
    return Sample([], record.entities)


class Task(NamedTuple):
    """What is learned of a dataset: its sampler, and the classes of the records that this takes."""

    sample: Callable[[Any, Draw], Sample]
    records: tuple[type, ...]


TASKS = {
    "describe": Task(sample_description, (VqaRecord, NarrativeRecord, InstructionRecord)),
    "nouns": Task(sample_nouns, (NarrativeRecord, InstructionRecord)),
    "ground": Task(sample_narrative, (NarrativeRecord, InstructionRecord)),
    "refer": Task(sample_expressions, (Record,)),
    "panoptic": Task(sample_categories, (PanopticRecord,)),
    "entities": Task(sample_entities, (EntityRecord, CocoEntityRecord, PanopticRecord)),
}
