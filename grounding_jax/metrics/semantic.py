"""Metrics of semantic segmentation, where a mask is that of a class: ADE20K."""

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Self

from grounding_jax.metrics.outcomes import Outcome, add_totals, mean


@dataclasses.dataclass(frozen=True)
class ClassTotals:
    """Pixels by the name of a class; those of parts of a dataset add up with ``+`` (spec gsva f.5).

    Attributes:
        intersection, union: sums over the pictures in which the class was asked for.
    """

    intersection: Counter[str] = dataclasses.field(default_factory=Counter)
    union: Counter[str] = dataclasses.field(default_factory=Counter)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome], classes: Iterable[str]) -> Self:
        """The sums over some targets and the names of their classes. Decisions do not count."""
        totals = cls()
        for outcome, name in zip(outcomes, classes, strict=True):
            totals.intersection[name] += outcome.intersection
            totals.union[name] += outcome.union
        return totals

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)


def semantic_metrics(totals: ClassTotals) -> dict[str, int | float | None]:
    """mIoU as a fraction: the mean over classes of each one's pooled IoU; None without any (spec gsva f.5).

    ``num_classes`` says over how many: classes that no picture has can't be averaged.
    """
    ious = [totals.intersection[name] / union for name, union in totals.union.items() if union]
    return {"mIoU": mean(ious), "num_classes": len(ious)}
