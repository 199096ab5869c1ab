"""What happened to each target, in counts of pixels: all that the mask metrics are computed from."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

# IoU from which a target counts as found in Pr@X.
PRECISION_THRESHOLDS = (0.5, 0.7, 0.8, 0.9)

Totals = TypeVar("Totals")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One target: its predicted mask against the true one, and the decision, in numbers that JSON can keep.

    Attributes:
        intersection: pixels in both masks.
        union: pixels in either mask.
        predicted: pixels in the predicted mask.
        target: pixels in the true mask; 0 if the target is not in the picture.
        rejected: True if the model answered [REJ].
        missing: True if a generated answer has neither [SEG] nor [REJ] for this target; then the predicted
            mask is empty and the decision counts as wrong.
    """

    intersection: int
    union: int
    predicted: int
    target: int
    rejected: bool = False
    missing: bool = False

    @property
    def absent(self) -> bool:
        """Whether the target is not in the picture."""
        return self.target == 0

    @property
    def accepted(self) -> bool:
        """Whether the model answered [SEG]."""
        return not self.rejected and not self.missing

    @property
    def iou(self) -> float:
        """intersection / union, 0 where both masks are empty."""
        return self.intersection / self.union if self.union else 0.0


def compare_masks(
    predicted: np.ndarray,
    target: np.ndarray,
    rejected: np.ndarray | None = None,
    missing: np.ndarray | None = None,
    ignore: np.ndarray | None = None,
) -> list[Outcome]:
    """Compares the masks of one picture, target by target.

    Args:
        predicted: bool [n, H, W]; the caller thresholds, ``logits >= 0`` for gRefCOCO and Ref-ZOM (spec gsva
            f.2) and ``logits > 0`` for RefCOCO and ReasonSeg (f.4).
        target: bool [n, H, W].
        rejected: bool [n], the decisions; by default nothing is rejected.
        missing: bool [n], targets that the answer leaves out; by default none.
        ignore: bool [H, W], pixels that do not count (f.4); by default all count.

    Raises ValueError if the shapes do not agree.
    """
    if predicted.shape != target.shape or predicted.ndim != 3:
        raise ValueError(f"masks of shapes {predicted.shape} (predicted) and {target.shape} (true) do not agree")
    num = len(target)
    rejected = np.zeros(num, bool) if rejected is None else np.asarray(rejected, bool)
    missing = np.zeros(num, bool) if missing is None else np.asarray(missing, bool)
    if rejected.shape != (num,) or missing.shape != (num,):
        raise ValueError(f"{num} targets, but decisions of shapes {rejected.shape} and {missing.shape}")
    counted = np.ones(target.shape[1:], bool) if ignore is None else ~ignore
    predicted = predicted & counted & ~missing[:, None, None]
    target = target & counted
    sums = (
        np.count_nonzero(masks, axis=(1, 2)).tolist()
        for masks in (predicted & target, predicted | target, predicted, target)
    )
    decisions = (rejected & ~missing).tolist(), missing.tolist()
    return [Outcome(*numbers) for numbers in zip(*sums, *decisions, strict=True)]


def add_totals(a: Totals, b: Totals) -> Totals:
    """Adds dataclasses of sums field by field, tuples entry by entry."""
    sums = {}
    for field in dataclasses.fields(a):
        x, y = getattr(a, field.name), getattr(b, field.name)
        sums[field.name] = tuple(map(sum, zip(x, y, strict=True))) if isinstance(x, tuple) else x + y
    return type(a)(**sums)


def precisions(
    found: Sequence[int], num: int, thresholds: Sequence[float] = PRECISION_THRESHOLDS
) -> dict[str, float | None]:
    """Pr@0.5, Pr@0.7 ...: the shares of targets that were found at that IoU."""
    return {f"Pr@{bound}": ratio(count, num) for bound, count in zip(thresholds, found, strict=True)}


def mean(values: Sequence[float]) -> float | None:
    """The mean of numbers added one after the other, as in the reference programs; None without any."""
    # Python's own sum adds floats otherwise from 3.12 on, and gives another last digit.
    return ratio(functools.reduce(operator.add, values, 0.0), len(values))


def ratio(numerator: float, denominator: float) -> float | None:
    """numerator / denominator, None for 0 / 0."""
    return numerator / denominator if denominator else None
