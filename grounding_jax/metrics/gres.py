"""Metrics of segmentation with absent targets, gRefCOCO and Ref-ZOM, as GSVA, its paper and ReLA count."""

import dataclasses
from collections.abc import Iterable
from typing import Self

import numpy as np

from grounding_jax.metrics.outcomes import PRECISION_THRESHOLDS, Outcome, add_totals, precisions, ratio


@dataclasses.dataclass(frozen=True)
class GresTotals:
    """Sums over targets; those of parts of a dataset add up with ``+`` (spec gsva f.2, f.3).

    Attributes:
        absent_rejected, absent_kept: absent targets that were answered with [REJ], and that were not.
        present_kept, present_rejected: present targets that were answered with [SEG], and that were not.
        iou: sum of IoU over present targets, rejected ones included as the release does.
        intersection, union: pixels of present targets, rejected ones included.
        absent_area: pixels predicted for absent targets that were not rejected.
        absent_empty: absent targets whose mask is empty, by rejection or by itself.
        kept_iou, kept_intersection: as iou and intersection, 0 for rejected targets, as ReLA does.
        found: present targets that were kept with an IoU of at least each of `PRECISION_THRESHOLDS`.
    """

    absent_rejected: int = 0
    absent_kept: int = 0
    present_kept: int = 0
    present_rejected: int = 0
    iou: float = 0.0
    intersection: int = 0
    union: int = 0
    absent_area: int = 0
    absent_empty: int = 0
    kept_iou: float = 0.0
    kept_intersection: int = 0
    found: tuple[int, ...] = (0,) * len(PRECISION_THRESHOLDS)

    @classmethod
    def of(cls, outcomes: Iterable[Outcome]) -> Self:
        """The sums over some targets."""
        return sum(map(cls._of_one, outcomes), cls())

    @classmethod
    def _of_one(cls, outcome: Outcome) -> Self:
        if outcome.absent:
            return cls(
                absent_rejected=int(outcome.rejected),
                absent_kept=int(not outcome.rejected),
                absent_area=0 if outcome.rejected else outcome.predicted,
                absent_empty=int(outcome.rejected or (outcome.accepted and outcome.predicted == 0)),
            )
        kept = outcome.accepted
        return cls(
            present_kept=int(kept),
            present_rejected=int(not kept),
            iou=outcome.intersection / (outcome.union + 1e-8),
            intersection=outcome.intersection,
            union=outcome.union,
            kept_iou=outcome.iou if kept else 0.0,
            kept_intersection=outcome.intersection if kept else 0,
            found=tuple(int(kept and outcome.iou >= threshold) for threshold in PRECISION_THRESHOLDS),
        )

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)

    @property
    def absent(self) -> int:
        """Number of absent targets."""
        return self.absent_rejected + self.absent_kept

    @property
    def present(self) -> int:
        """Number of present targets."""
        return self.present_kept + self.present_rejected


def grefcoco_metrics(totals: GresTotals) -> dict[str, float | None]:
    """gRefCOCO as the release computes it, and ReLA's variant beside it (spec gsva f.2); fractions.

    gIoU, cIoU, N_acc and T_acc are the release's; rela_gIoU, rela_cIoU and Pr@X are ReLA's, whose N_acc and
    T_acc are the same. None where there is nothing to average.
    """
    return {
        **_official(totals, union=totals.union + totals.absent_area),
        "rela_gIoU": ratio(totals.kept_iou + totals.absent_rejected, totals.absent + totals.present),
        "rela_cIoU": ratio(totals.kept_intersection, totals.union + totals.absent_area),
        **precisions(totals.found, totals.present),
    }


def refzom_metrics(totals: GresTotals) -> dict[str, float | None]:
    """Ref-ZOM as the release computes it, and the paper's numbers beside it (spec gsva f.2, f.3); fractions.

    gIoU, cIoU, N_acc and T_acc are the release's. mIoU, oIoU and Acc are the paper's: IoUs over present
    targets only, and the share of absent targets with an empty mask. None where there is nothing to average.
    """
    official = _official(totals, union=totals.union)
    return {
        **official,
        "mIoU": ratio(totals.iou, totals.present),
        "oIoU": official["cIoU"],
        "Acc": ratio(totals.absent_empty, totals.absent),
        **precisions(totals.found, totals.present),
    }


def _official(totals: GresTotals, union: int) -> dict[str, float | None]:
    """The release's four numbers, with the single precision and the epsilons of its meters."""
    num = totals.absent + totals.present
    iou = np.float32(totals.iou + totals.absent_rejected) / np.float32(num + 1e-5)
    return {
        "gIoU": float(iou) if num else None,
        "cIoU": float(np.float32(totals.intersection) / (np.float32(union) + np.float32(1e-10))) if num else None,
        "N_acc": ratio(totals.absent_rejected, totals.absent),
        "T_acc": ratio(totals.present_kept, totals.present),
    }
