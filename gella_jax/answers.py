"""What a GELLA answers: the nouns of a caption, the masks that they mean, the mask that an expression means."""

from __future__ import annotations

import dataclasses

import numpy as np

from gella_jax.engine import LeftOut
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.sources.narratives import Span


@dataclasses.dataclass(frozen=True)
class Noun:
    """A noun of a caption and what it means.

    Attributes:
        text: the noun.
        span: its first character in the caption and the one after its last; None where the caption does not have it.
        masks: places among the entities, the most probable first; none where no mask could be meant, or is probable
            enough.
        scores: float32 ``[E]``, how probable it is that each mask is meant; 0 for masks that have no query, see
            `Grounding.left_out`.
        mask: bool ``[H, W]``, all of `masks` together.
        absent: True if it is not in the picture: no mask is probable enough, see `Gella.ground`.
    """

    text: str
    span: Span | None
    masks: tuple[int, ...]
    scores: np.ndarray
    mask: np.ndarray
    absent: bool = False

    @property
    def score(self) -> float:
        """Of the most probable mask, whether it means it or not."""
        return float(self.scores.max(initial=0))


@dataclasses.dataclass(frozen=True)
class Nouns:
    """An answer about a caption alone.

    Attributes:
        text: as the model wrote it.
        nouns: in it.
        spans: their places in the caption, see `Noun`.
        finished: see `Grounding`.
    """

    text: str
    nouns: tuple[str, ...]
    spans: tuple[Span | None, ...]
    finished: bool = True


@dataclasses.dataclass(frozen=True)
class Grounding:
    """What the nouns of a caption mean.

    Attributes:
        text: the answer, as the model wrote it or as it was given.
        caption: as it was asked.
        nouns: in the order of the answer.
        entities: those that were put in, with the masks that were asked for.
        left_out: places of those that no noun can mean: "hidden", of which nothing is seen, and "surplus", beyond the
            model's queries, the smallest.
        finished: True if all that the model wrote ends by itself, not at the limit on tokens.
        described: True if the caption is the model's own.
    """

    text: str
    caption: str
    nouns: tuple[Noun, ...]
    entities: Entities
    left_out: LeftOut
    finished: bool = True
    described: bool = False


@dataclasses.dataclass(frozen=True)
class Reference:
    """What an expression means.

    Attributes:
        expression: as it was asked.
        text: the answer that the model wrote.
        nouns: nouns of the expression; where the model wrote none, the expression itself.
        place: index of the mask among the entities; None where none is seen.
        score: probability that the mask is meant, the best of the nouns.
        mask: bool ``[H, W]``.
        left_out, finished: see `Grounding`.
    """

    expression: str
    text: str
    nouns: tuple[str, ...]
    place: int | None
    score: float
    mask: np.ndarray
    left_out: LeftOut = dataclasses.field(default_factory=dict)
    finished: bool = True
