"""Average recall of narrative grounding: how well the phrases of captions are found, as the PNG benchmark counts."""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np

from grounding_jax.metrics.outcomes import add_totals, ratio

# The benchmark's thresholds. Its sum goes over the steps between them, so the last one only ends a step.
_THRESHOLDS = np.arange(0, 1, 1e-5)


@dataclasses.dataclass(frozen=True)
class Phrase:
    """One phrase of a caption: its predicted mask against the true one, in numbers that JSON can keep.

    Attributes:
        intersection, union: pixels in both masks, and in either; each mask is the union of the phrase's segments.
        num_segments: true segments of the phrase. More than one make it plural, none leave it out.
        is_thing: True if the phrase means things, as opposed to stuff.
    """

    intersection: int
    union: int
    num_segments: int
    is_thing: bool

    @property
    def iou(self) -> float:
        """intersection / union, NaN where both masks are empty."""
        return self.intersection / self.union if self.union else math.nan


def compare_phrase(predicted: np.ndarray, target: np.ndarray, are_things: Sequence[bool]) -> Phrase:
    """Compares the masks that were chosen for a phrase with those of its segments (spec gella e).

    Args:
        predicted: bool [M, H, W], any number of masks, none for a phrase that was not found.
        target: bool [S, H, W], the phrase's segments, at the size of the picture.
        are_things: True for each segment that is a thing; the last one decides, as in the benchmark.

    Raises ValueError if the shapes do not agree.
    """
    if predicted.ndim != 3 or target.ndim != 3 or predicted.shape[1:] != target.shape[1:]:
        raise ValueError(f"masks of shapes {predicted.shape} (predicted) and {target.shape} (true) do not agree")
    if len(are_things) != len(target):
        raise ValueError(f"{len(target)} segments, but {len(are_things)} of them are said to be things or stuff")
    found, true = predicted.any(axis=0), target.any(axis=0)
    return Phrase(
        intersection=int(np.count_nonzero(found & true)),
        union=int(np.count_nonzero(found | true)),
        num_segments=len(target),
        is_thing=bool(len(target) and are_things[-1]),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class RecallTotals:
    """How many phrases reach how many thresholds; those of parts of a dataset add up with ``+``.

    Attributes:
        reached: int64 [100000], the number of phrases by how many of the 99,999 thresholds their IoU reaches.
        found: phrases with an IoU of more than 0.5.
    """

    reached: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(len(_THRESHOLDS), np.int64))
    found: int = 0

    @classmethod
    def of(cls, ious: Iterable[float]) -> Self:
        """The sums over some phrases. NaN reaches nothing, but counts."""
        ious = np.fromiter(ious, np.float64)
        # Not floor(IoU / 1e-5) + 1, which is one off at some multiples of 1e-5.
        reached = np.where(np.isnan(ious), 0, np.searchsorted(_THRESHOLDS[:-1], ious, side="right"))
        return cls(np.bincount(reached, minlength=len(_THRESHOLDS)), int(np.count_nonzero(ious > 0.5)))

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)

    @property
    def num(self) -> int:
        """Number of phrases."""
        return int(self.reached.sum())


def average_recall(totals: RecallTotals) -> float:
    """The area under the curve of recall over the IoU that counts as found, to the bit as the benchmark sums it.

    That is a left Riemann sum over 99,999 steps (spec gella e): IoU 0 gives 1e-5, IoU 1 gives 0.99999. NaN
    without phrases, as there.
    """
    if not totals.num:
        return math.nan
    recall = (totals.num - np.cumsum(totals.reached)[:-1]) / totals.num
    # cumsum adds one after the other, which `sum` does not.
    return float(np.cumsum(np.diff(_THRESHOLDS) * recall)[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class NarrativeTotals:
    """Sums over phrases, by the benchmark's splits; those of parts of a dataset add up with ``+`` (spec gella e).

    Attributes:
        overall: all phrases that have segments.
        things, stuff: each of them is in one of these two,
        singulars, plurals: and in one of these, by its number of true segments.
        left_out: phrases without a segment, which are not evaluated.
    """

    overall: RecallTotals = dataclasses.field(default_factory=RecallTotals)
    things: RecallTotals = dataclasses.field(default_factory=RecallTotals)
    stuff: RecallTotals = dataclasses.field(default_factory=RecallTotals)
    singulars: RecallTotals = dataclasses.field(default_factory=RecallTotals)
    plurals: RecallTotals = dataclasses.field(default_factory=RecallTotals)
    left_out: int = 0

    @classmethod
    def of(cls, phrases: Iterable[Phrase]) -> Self:
        """The sums over some phrases."""
        phrases = list(phrases)
        grounded = [phrase for phrase in phrases if phrase.num_segments]
        return cls(
            overall=RecallTotals.of(phrase.iou for phrase in grounded),
            things=RecallTotals.of(phrase.iou for phrase in grounded if phrase.is_thing),
            stuff=RecallTotals.of(phrase.iou for phrase in grounded if not phrase.is_thing),
            singulars=RecallTotals.of(phrase.iou for phrase in grounded if phrase.num_segments == 1),
            plurals=RecallTotals.of(phrase.iou for phrase in grounded if phrase.num_segments > 1),
            left_out=len(phrases) - len(grounded),
        )

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)


def narrative_metrics(totals: NarrativeTotals) -> dict[str, int | float | None]:
    """Average recall of all phrases and of the four splits, as fractions; None for a split without phrases.

    acc@0.5 is the share of phrases with an IoU of more than 0.5. ``num_phrases`` says over how many, and
    ``num_left_out`` how many phrases of the captions have no segment (spec gella e).
    """
    splits = {
        "AR": totals.overall,
        "AR_things": totals.things,
        "AR_stuff": totals.stuff,
        "AR_singulars": totals.singulars,
        "AR_plurals": totals.plurals,
    }
    return {
        **{name: average_recall(split) if split.num else None for name, split in splits.items()},
        "acc@0.5": ratio(totals.overall.found, totals.overall.num),
        "num_phrases": totals.overall.num,
        "num_left_out": totals.left_out,
    }
