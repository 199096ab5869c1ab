"""GSVA's page of pictures on which it did best and worst, and some at random (`grounding_jax.evaluation.gallery`)."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from grounding_jax.drawing.legend import colour
from grounding_jax.drawing.overlay import draw_targets
from grounding_jax.evaluation.gallery import make_card, page
from grounding_jax.evaluation.published import Report
from grounding_jax.files.masks import decode_mask
from grounding_jax.files.pictures import open_picture
from grounding_jax.metrics.outcomes import Outcome
from gsva_jax.evaluation.protocols import Asked
from gsva_jax.predict import Target


def gallery_page(report: Report, lines: Sequence[Mapping], record_of: Callable[[int], Asked]) -> str:
    """Makes the page.

    Args:
        report: the report that `evaluate` returns.
        lines: its lines about every picture, with the predictions.
        record_of: the pictures of the dataset, by their numbers.

    Returns:
        HTML.
    """
    scores = [picture_iou([Outcome(**values) for values in line["outcomes"]]) for line in lines]
    facts = [report["protocol"], *(["grey pictures"] if report["blind"] else []), f"{report['num_targets']} targets"]
    facts += [f'asked "{report["question"]}"'] if "question" in report else []
    return page(report, facts, scores, lambda k: _card(lines[k], scores[k], record_of(lines[k]["index"])))


def picture_iou(outcomes: Sequence[Outcome]) -> float:
    """Mean over a picture's targets of what gIoU takes of each: its IoU, or whether an absent one was rejected."""
    return float(np.mean([float(o.rejected) if o.absent else o.iou for o in outcomes])) if outcomes else 0.0


_HEADER = "<tr><th></th><th>expression</th><th>decision</th><th>score</th><th>IoU</th></tr>"


def _card(line: Mapping, score: float, record: Asked) -> str:
    """One picture: both overlays, and a row for every target."""
    picture = open_picture(record.image)
    predictions = line["predictions"]
    true = [Target(p["expression"], False, mask, 1.0) for p, mask in zip(predictions, record.masks, strict=True)]
    predicted = [
        Target(p["expression"], p["rejected"], decode_mask(p["segmentation"], record.size), p["score"])
        for p in predictions
    ]
    rows = "".join(_row(k, p, Outcome(**line["outcomes"][k])) for k, p in enumerate(predictions))
    answer = next((p["answer"] for p in predictions if "answer" in p), None)
    quoted = "" if answer is None else f"<blockquote>{html.escape(answer)}</blockquote>"
    return make_card(
        f"{line['index']} · {record.image.name}",
        score,
        "an absent target counts 1 if it was rejected",
        draw_targets(picture, true),
        draw_targets(picture, predicted),
        f"{quoted}<table>{_HEADER}{rows}</table>",
    )


def _row(index: int, prediction: Mapping, outcome: Outcome) -> str:
    """One target: its number and colour, the expression, the truth, the decision, its score, and the IoU."""
    said = "missing" if outcome.missing else "[REJ]" if outcome.rejected else "[SEG]"
    right = not outcome.missing and outcome.rejected == outcome.absent
    iou = "&ndash;" if outcome.absent else f"{outcome.iou:.2f}"
    return (
        f'<tr><td><i style="background:{colour(index)}">{index + 1}</i></td>'
        f"<td>{html.escape(prediction['expression'])}{' <em>not there</em>' if outcome.absent else ''}</td>"
        f'<td class="{"right" if right else "wrong"}">{said}</td><td>{prediction["score"]:.2f}</td>'
        f'<td class="iou" style="--part:{0 if outcome.absent else outcome.iou:.3f}">{iou}</td></tr>'
    )
