"""GELLA's page of pictures on which it did best and worst, and some at random (`grounding_jax.evaluation.gallery`)."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gella_jax.evaluation.masks import whose_masks
from gella_jax.evaluation.predictions import targets_of
from gella_jax.results import Target
from grounding_jax.drawing.legend import QUIET, colour
from grounding_jax.drawing.overlay import draw_targets
from grounding_jax.evaluation.gallery import make_card, page
from grounding_jax.evaluation.published import Report
from grounding_jax.files.masks import decode_mask
from grounding_jax.files.pictures import open_picture

_MOST_IDS = 4  # of masks that a row names


class _Row(NamedTuple):
    """A target, and what was predicted of it: one of the two may be missing."""

    name: str
    true: np.ndarray | None
    prediction: Mapping | None


def gallery_page(report: Report, lines: Sequence[Mapping], record_of: Callable[[int], Any]) -> str:
    """Makes the page, without pictures in which there is nothing to find.

    Args:
        report: the report that `evaluate` returns.
        lines: its lines about every picture, with the predictions.
        record_of: the records of the dataset, by their numbers.

    Returns:
        HTML.
    """
    lines = [line for line in lines if line["measured"]]
    scores = [mean_iou(line) for line in lines]
    facts = [
        report["protocol"],
        whose_masks(report),
        f"answered with those that were {report['output_masks']}",
        f"{report['num_targets']} targets",
    ]
    return page(report, facts, scores, lambda k: _card(lines[k], scores[k], record_of(lines[k]["index"])))


def mean_iou(line: Mapping) -> float:
    """Mean IoU over a picture's targets; 0 for those of which nothing was found."""
    return sum(one["iou"] or 0.0 for one in line["predictions"]) / line["measured"]


def _rows(record: Any, predictions: Sequence[Mapping]) -> list[_Row]:
    """The targets in their order, and then what was predicted where there is none."""
    found = {one["target"]: one for one in predictions if one["target"] is not None}
    targets = [_Row(name, mask, found.get(j)) for j, (name, mask) in enumerate(zip(*targets_of(record), strict=True))]
    return targets + [_Row(one["expression"], None, one) for one in predictions if one["target"] is None]


_HEADER = "<tr><th></th><th>target</th><th>masks</th><th>score</th><th>IoU</th></tr>"


def _card(line: Mapping, score: float, record: Any) -> str:
    """One picture: both overlays, and a row for every target."""
    picture, rows, nothing = open_picture(record.image), _rows(record, line["predictions"]), np.zeros(record.size, bool)
    true = [Target(row.name, nothing if row.true is None else row.true, 1.0) for row in rows]
    predicted = [
        Target(row.name, nothing, 0.0)
        if row.prediction is None
        else Target(row.name, decode_mask(row.prediction["segmentation"], record.size), row.prediction["score"])
        for row in rows
    ]
    first = next(iter(line["predictions"]), {})
    texts = [first[key] for key in ("caption", "answer") if "caption" in first and key in first]
    quotes = "".join(f"<blockquote>{html.escape(text)}</blockquote>" for text in texts)
    listed = "".join(_row(k, row, true[k], predicted[k]) for k, row in enumerate(rows))
    return make_card(
        f"{line['index']} · {record.image.name}",
        score,
        "a target of which nothing was found counts 0",
        draw_targets(picture, true),
        draw_targets(picture, predicted),
        f"{quotes}<table>{_HEADER}{listed}</table>",
    )


def _row(index: int, row: _Row, true: Target, predicted: Target) -> str:
    """One target: its number and colour, its name, the masks that were chosen, their score, and the IoU."""
    found = row.prediction or {}
    iou, measured = found.get("iou"), row.true is not None and (not found or found["iou"] is not None)
    remark = "" if measured else " <em>matches none</em>" if row.true is None else " <em>not measured</em>"
    ids = list(map(str, found.get("mask_ids", ())))
    masks = ", ".join(ids[:_MOST_IDS]) + (f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else "")
    score = f"{found['score']:.2f}" if found else "&ndash;"
    drawn = true.mask.any() or predicted.mask.any()
    return (
        f'<tr><td><i style="background:{colour(index) if drawn else QUIET}">{index + 1}</i></td>'
        f"<td>{html.escape(row.name)}{remark}</td><td>{html.escape(masks)}</td>"
        f'<td>{score}</td><td class="iou" style="--part:{iou or 0:.3f}">'
        f"{f'{iou or 0:.2f}' if measured else '&ndash;'}</td></tr>"
    )
