"""Entities with a category each become one map without overlaps, as in Mask2Former (spec gella D5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from grounding_jax.data.sources.panoptic_classes import Category

MIN_SCORE = 0.5  # of an entity; Mask2Former's 0.8 is a softmax over categories
MIN_SHARE = 0.8  # of its own pixels that an entity must win
_INSIDE = 0.5  # the probability from which a pixel is one of the mask's


@dataclasses.dataclass(frozen=True)
class Segment:
    """One segment: its number in the map, its category, and the best score of the entities it is made of."""

    id: int
    category: Category
    score: float


@dataclasses.dataclass(frozen=True)
class PanopticAnswer:
    """Every pixel of a picture with its segment.

    Attributes:
        ids: int32 ``[H, W]``, 0 where there is none.
        segments: in the order of their numbers, from 1.
        left_out: places of masks (of queries, where these are merged) that are in no segment: "improbable", of a poor
            score, "covered", which win too little of their own pixels; and those of `Grounding.left_out`.
    """

    ids: np.ndarray
    segments: tuple[Segment, ...]
    left_out: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


def merge(
    scores: np.ndarray,
    categories: Sequence[Category],
    probability: Callable[[int], np.ndarray],
    size: tuple[int, int],
) -> PanopticAnswer:
    """Gives each pixel to the entity with the highest score times probability there.

    Entities of a poor score, and those that win less than `MIN_SHARE` of what their own masks have, are left out; of
    the others only pixels inside the mask are painted. Stuff of one category becomes one segment.

    Args:
        scores: ``[E]``, in [0, 1].
        categories: the category of each entity.
        probability: float ``[H, W]`` of an entity; asked for one after the other, as all together may be large.
        size: (H, W).
    """
    owner, best = np.full(size, -1, np.int32), np.zeros(size, np.float32)
    inside = np.zeros(size, bool)  # of the mask that owns the pixel
    kept = np.flatnonzero(np.asarray(scores) >= MIN_SCORE).tolist()
    areas, covered = {}, []
    for e in kept:
        mask = probability(e)
        within = mask >= _INSIDE
        areas[e] = np.count_nonzero(within)
        weighted = scores[e] * mask
        better = weighted > best
        owner[better], best[better], inside[better] = e, weighted[better], within[better]
    ids = np.zeros(size, np.int32)
    segments: dict[int, Segment] = {}
    of_stuff: dict[int, int] = {}
    for e in kept:
        won = owner == e
        painted = won & inside
        if not painted.any() or np.count_nonzero(won) < MIN_SHARE * areas[e]:
            covered.append(e)
            continue
        category, score = categories[e], float(scores[e])
        number = len(segments) + 1
        if not category.isthing:
            number = of_stuff.setdefault(category.id, number)
            score = max(score, segments[number].score) if number in segments else score
        ids[painted] = number
        segments[number] = Segment(number, category, score)
    improbable = sorted({*range(len(scores))} - {*kept})
    return PanopticAnswer(ids, tuple(segments.values()), {"improbable": tuple(improbable), "covered": tuple(covered)})
