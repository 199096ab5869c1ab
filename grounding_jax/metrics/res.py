"""Metrics of segmentation where every target is there: RefCOCO, RefCOCO+, RefCOCOg and ReasonSeg."""

import dataclasses
from collections.abc import Iterable
from typing import Self

import numpy as np

from grounding_jax.metrics.outcomes import Outcome


@dataclasses.dataclass(frozen=True)
class ResTotals:
    """Sums over targets; those of parts of a dataset add up with ``+`` (spec gsva f.4).

    Attributes:
        num: number of targets.
        iou: sum of IoU, 1 where both masks are empty.
        intersection, union: pixels.
    """

    num: int = 0
    iou: float = 0.0
    intersection: int = 0
    union: int = 0

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Self:
        """The sums over some targets. Decisions do not count: the release has none here."""
        return sum(map(cls._of_one, outcomes), cls())

    @classmethod
    def _of_one(cls, outcome: Outcome) -> Self:
        iou = outcome.intersection / (outcome.union + 1e-5) if outcome.union else 1.0
        return cls(num=1, iou=iou, intersection=outcome.intersection, union=outcome.union)

    def __add__(self, other: Self) -> Self:
        names = [field.name for field in dataclasses.fields(self)]
        return type(self)(*(getattr(self, name) + getattr(other, name) for name in names))


def res_metrics(totals: ResTotals) -> dict[str, float | None]:
    """gIoU and cIoU as the release's `validate` has them (spec gsva f.4), as fractions; None without targets.

    For ReasonSeg, leave ignored pixels out of the outcomes as LISA does (``compare_masks(ignore=...)``); the
    release counts them as target (h 8). For RefCOCO, cIoU is what papers call oIoU.
    """
    if not totals.num:
        return {"gIoU": None, "cIoU": None}
    return {
        "gIoU": float(np.float32(totals.iou) / np.float32(totals.num + 1e-5)),
        "cIoU": float(np.float32(totals.intersection) / (np.float32(totals.union) + np.float32(1e-10))),
    }
