"""Panoptic quality, as the COCO panoptic evaluator counts."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from grounding_jax.metrics.outcomes import add_totals, mean

_VOID = 0  # the id of pixels without a segment


@dataclasses.dataclass(frozen=True)
class PanopticSegments:
    """The panoptic segmentation of one picture (spec gella f).

    Attributes:
        ids: int [H, W], the segment of each pixel, in a PNG R + 256 G + 65536 B; 0 where there is none.
        segments: COCO's ``segments_info``: {"id", "category_id"}, of the truth also {"area", "iscrowd"}.
    """

    ids: np.ndarray
    segments: Sequence[Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class PanopticTotals:
    """Sums by the id of a category; those of parts of a dataset add up with ``+`` (spec gella e).

    Attributes:
        iou: sum of IoU over matched segments.
        matched: true segments with a predicted one of their category and an IoU of more than 0.5.
        missed: the other true segments, crowds left out.
        surplus: predicted segments without a match, those mostly on void or on a crowd of their category left out.
    """

    iou: Counter[int] = dataclasses.field(default_factory=Counter)
    matched: Counter[int] = dataclasses.field(default_factory=Counter)
    missed: Counter[int] = dataclasses.field(default_factory=Counter)
    surplus: Counter[int] = dataclasses.field(default_factory=Counter)

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)


def compare_panoptic(
    predicted: PanopticSegments, target: PanopticSegments, categories: Sequence[Mapping[str, Any]], picture: int | str
) -> PanopticTotals:
    """Matches the predicted segments of one picture with the true ones (spec gella e).

    Args:
        predicted, target: segmentations of the same [H, W]. A true segment counts with the ``area`` that it is listed
            with.
        categories: COCO's: {"id", ...}.
        picture: name of the picture for errors, such as its ``image_id``.

    Raises ValueError, naming the picture and the id, if the shapes do not agree; if a segment is listed twice, is
    listed but has no pixel, or has pixels but is not listed; or if its category is not among `categories`.
    """
    if predicted.ids.shape != target.ids.shape or predicted.ids.ndim != 2:
        raise ValueError(
            f"picture {picture}: ids of shapes {predicted.ids.shape} (predicted) and {target.ids.shape} (true) "
            "do not agree"
        )
    known = {category["id"] for category in categories}
    found = _listed(predicted, known, f"picture {picture}: the prediction")
    true = _listed(target, known, f"picture {picture}: the truth")
    overlaps = _overlaps(target.ids, predicted.ids)
    areas, matches, totals = _areas(overlaps), _matches(overlaps, found, true), PanopticTotals()
    for true_id, (_, iou) in matches.items():
        totals.iou[true[true_id]["category_id"]] += iou
        totals.matched[true[true_id]["category_id"]] += 1
    for true_id, segment in true.items():
        if true_id not in matches and not _is_crowd(segment):
            totals.missed[segment["category_id"]] += 1
    # Of several crowds of one category the evaluator knows the last.
    crowds = {segment["category_id"]: true_id for true_id, segment in true.items() if _is_crowd(segment)}
    for found_id in found.keys() - {found_id for found_id, _ in matches.values()}:
        category = found[found_id]["category_id"]
        excused = overlaps[_VOID, found_id] + overlaps[crowds.get(category), found_id]
        if excused / areas[found_id] <= 0.5:
            totals.surplus[category] += 1
    return totals


def match_segments(predicted: PanopticSegments, target: PanopticSegments) -> dict[int, tuple[int, float]]:
    """For each true segment that `compare_panoptic` counts as matched, the predicted one and their IoU."""
    found, true = ({segment["id"]: segment for segment in one.segments} for one in (predicted, target))
    return _matches(_overlaps(target.ids, predicted.ids), found, true)


def panoptic_metrics(totals: PanopticTotals, categories: Sequence[Mapping[str, Any]]) -> dict[str, int | float | None]:
    """PQ, SQ and RQ as fractions: means over the categories that occur (spec gella e); None without any.

    ``PQ_things`` and ``PQ_stuff`` are over those alone, ``PQ[name]`` is that of one category. ``num_classes`` says
    over how many the first three are. PQ is not SQ times RQ: only that of one category is.

    Args:
        categories: COCO's: {"id", "name", "isthing"}.
    """
    each = {category["id"]: _qualities(totals, category["id"]) for category in categories}

    def means(suffix: str, belongs: Callable[[Mapping[str, Any]], bool]) -> dict[str, float | None]:
        rows = [each[category["id"]] for category in categories if belongs(category)]
        occurring = [row for row in rows if row is not None]
        return {f"{name}{suffix}": mean([row[name] for row in occurring]) for name in ("PQ", "SQ", "RQ")}

    return {
        **means("", lambda category: True),
        **means("_things", lambda category: bool(category["isthing"])),
        **means("_stuff", lambda category: not category["isthing"]),
        "num_classes": sum(row is not None for row in each.values()),
        **{
            f"{name}[{category['name']}]": each[category["id"]][name] if each[category["id"]] else None
            for category in categories
            for name in ("PQ", "SQ", "RQ")
        },
    }


def _qualities(totals: PanopticTotals, category: int) -> dict[str, float] | None:
    """PQ, SQ and RQ of one category, None where it does not occur."""
    iou, matched = totals.iou[category], totals.matched[category]
    num = matched + 0.5 * totals.surplus[category] + 0.5 * totals.missed[category]
    return {"PQ": iou / num, "SQ": iou / matched if matched else 0.0, "RQ": matched / num} if num else None


def _listed(panoptic: PanopticSegments, categories: set[int], whose: str) -> dict[int, Mapping[str, Any]]:
    """The segments by id, in the order in which they are listed; raises the errors of `compare_panoptic`."""
    segments = {segment["id"]: segment for segment in panoptic.segments}
    drawn = set(np.unique(panoptic.ids).tolist()) - {_VOID}
    if len(segments) < len(panoptic.segments):
        twice = [i for i, num in Counter(segment["id"] for segment in panoptic.segments).items() if num > 1]
        raise ValueError(f"{whose} lists segment {twice[0]} more than once")
    for segment in sorted(drawn - segments.keys()):
        raise ValueError(f"{whose} has pixels of segment {segment}, which its segments_info does not list")
    for segment in sorted(segments.keys() - drawn):
        raise ValueError(f"{whose} lists segment {segment}, which has no pixel")
    for segment, info in segments.items():
        if info["category_id"] not in categories:
            raise ValueError(f"{whose} has segment {segment} of the unknown category {info['category_id']}")
    return segments


def _overlaps(target: np.ndarray, predicted: np.ndarray) -> Counter[tuple[int, int]]:
    """Pixels by (true id, predicted id), in the order of these."""
    target, predicted = target.astype(np.int64), predicted.astype(np.int64)
    base = int(predicted.max()) + 1
    pairs, counts = np.unique(target * base + predicted, return_counts=True)
    return Counter({divmod(pair, base): count for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)})


def _areas(overlaps: Counter[tuple[int, int]]) -> Counter[int]:
    """Pixels of the predicted segments."""
    areas = Counter()
    for (_, found_id), pixels in overlaps.items():
        areas[found_id] += pixels
    return areas


def _matches(
    overlaps: Counter[tuple[int, int]], found: Mapping[int, Mapping[str, Any]], true: Mapping[int, Mapping[str, Any]]
) -> dict[int, tuple[int, float]]:
    """By the id of a true segment, the predicted one of its category with an IoU of more than 0.5, and that."""
    areas, matches = _areas(overlaps), {}
    for (true_id, found_id), pixels in overlaps.items():
        if _VOID in (true_id, found_id) or _is_crowd(true[true_id]):
            continue
        union = areas[found_id] + true[true_id]["area"] - pixels - overlaps[_VOID, found_id]
        if found[found_id]["category_id"] == true[true_id]["category_id"] and pixels / union > 0.5:
            matches[true_id] = found_id, pixels / union
    return matches


def _is_crowd(segment: Mapping[str, Any]) -> bool:
    return bool(segment.get("iscrowd", 0))
