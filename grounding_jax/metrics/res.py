"""Metrics of segmentation where every target is there: RefCOCO, RefCOCO+, RefCOCOg and ReasonSeg."""

import dataclasses
from collections.abc import Iterable
from typing import Self

import numpy as np

from grounding_jax.metrics.outcomes import PRECISION_THRESHOLDS, Outcome, add_totals, precisions, ratio

# IoU above which a target counts as found where RefCOCO is reported on its own (spec gella e).
_STRICT_THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


@dataclasses.dataclass(frozen=True)
class ResTotals:
    """Sums over targets; those of parts of a dataset add up with ``+`` (spec gsva f.4, gella e).

    Attributes:
        num: number of targets.
        iou: sum of IoU, 1 where both masks are empty.
        intersection, union: pixels.
        found: targets with an IoU of at least each of `PRECISION_THRESHOLDS`.
        above: targets with an IoU of more than 0.5, 0.6, 0.7, 0.8 and 0.9.
    """

    num: int = 0
    iou: float = 0.0
    intersection: int = 0
    union: int = 0
    found: tuple[int, ...] = (0,) * len(PRECISION_THRESHOLDS)
    above: tuple[int, ...] = (0,) * len(_STRICT_THRESHOLDS)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Self:
        """The sums over some targets. Decisions do not count: the release has none here."""
        return sum(map(cls._of_one, outcomes), cls())

    @classmethod
    def _of_one(cls, outcome: Outcome) -> Self:
        iou = outcome.intersection / (outcome.union + 1e-5) if outcome.union else 1.0
        found = tuple(int(outcome.iou >= threshold) for threshold in PRECISION_THRESHOLDS)
        above = tuple(int(outcome.iou > threshold) for threshold in _STRICT_THRESHOLDS)
        return cls(1, iou, outcome.intersection, outcome.union, found, above)

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)


def res_metrics(totals: ResTotals) -> dict[str, float | None]:
    """gIoU and cIoU as the release's `validate` has them (spec gsva f.4), as fractions; None without targets.

    For ReasonSeg, leave ignored pixels out of the outcomes as LISA does (``compare_masks(ignore=...)``); the
    release counts them as target (h 8). mIoU and oIoU are what papers on RefCOCO call the two, without the release's
    epsilons; Pr@X are the shares of targets with at least that IoU.
    """
    official = {
        "gIoU": np.float32(totals.iou) / np.float32(totals.num + 1e-5),
        "cIoU": np.float32(totals.intersection) / (np.float32(totals.union) + np.float32(1e-10)),
    }
    return {
        **{name: float(value) if totals.num else None for name, value in official.items()},
        "mIoU": ratio(totals.iou, totals.num),
        "oIoU": ratio(totals.intersection, totals.union),
        **precisions(totals.found, totals.num),
    }


def refcoco_metrics(totals: ResTotals) -> dict[str, float | None]:
    """RefCOCO, RefCOCO+ and RefCOCOg as GELLA's paper reports them (spec gella e), as fractions; None without targets.

    cIoU is the sum of intersections over that of unions, mIoU the mean IoU with LISA's epsilon. Pr@X are the shares
    of targets with more than that IoU, where `res_metrics` counts equality too.
    """
    return {
        "cIoU": ratio(totals.intersection, totals.union),
        "mIoU": ratio(totals.iou, totals.num),
        **precisions(totals.above, totals.num, _STRICT_THRESHOLDS),
    }
