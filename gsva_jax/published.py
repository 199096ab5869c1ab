"""Published numbers, and a table that has them beside ours.

Only numbers that stand in sections (i) and (j) of docs/spec/gsva.md: where those have none, the table is blank (m).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

PROTOCOL = "official"  # of every published number


class Published(NamedTuple):
    """What was published of one model on one dataset.

    Attributes:
        model: the checkpoint, or the row of the paper's table.
        dataset: as `datasets.open_dataset` takes it.
        metrics: fractions, called as in the reports of `evaluate`.
        question: how the model was asked, one of `prompts.OFFICIAL_QUESTIONS`.
    """

    model: str
    dataset: str
    metrics: dict[str, float]
    question: str = "what"


def _row(model: str, dataset: str, names: str, *percents: float, question: str = "what") -> Published:
    """A row from percents, as they were printed."""
    metrics = {name: round(percent / 100, 6) for name, percent in zip(names.split(), percents, strict=True)}
    return Published(model, dataset, metrics, question)


_VAL, _TEST_A, _TEST_B = (f"grefcoco|unc|{split}" for split in ("val", "testA", "testB"))
_REFZOM, _REASON, _ADE = "refzom|final|test", "ReasonSeg|val", "ade20k|validation"
_FOUR, _THREE, _PAIR, _ZOM = "gIoU cIoU N_acc T_acc", "gIoU cIoU N_acc", "gIoU cIoU", "oIoU mIoU Acc"

PUBLISHED = (
    # The released checkpoints (spec gsva j).
    _row("gsva-7b-pt", _VAL, _FOUR, 63.47, 61.65, 56.98, 99.54),
    _row("gsva-7b-pt", _TEST_A, _FOUR, 69.99, 69.17, 63.39, 98.46),
    _row("gsva-7b-pt", _TEST_B, _FOUR, 61.34, 60.26, 58.68, 98.95),
    _row("gsva-7b-ft-gres", _VAL, _FOUR, 66.43, 63.19, 62.56, 99.62),
    _row("gsva-7b-ft-gres", _TEST_A, _FOUR, 71.06, 69.87, 65.72, 98.69),
    _row("gsva-7b-ft-gres", _TEST_B, _FOUR, 62.20, 60.35, 60.72, 99.10),
    # The paper's supplementary (spec gsva i).
    _row("GSVA, SAM-H", _VAL, _THREE, 63.32, 61.70, 56.45),
    _row("GSVA, SAM-L", _VAL, _THREE, 61.67, 60.46, 56.04),
    _row("GSVA, SAM-B", _VAL, _THREE, 59.20, 56.36, 58.57),
    _row("GSVA-7B, individual tokens", _VAL, _THREE, 16.13, 23.11, 0),
    _row("GSVA, What", _VAL, _THREE, 63.32, 61.70, 56.44),
    _row("GSVA, Where", _VAL, _THREE, 63.43, 61.57, 56.98, question="where"),
    _row("GSVA, Show", _VAL, _THREE, 63.05, 61.35, 56.48, question="show"),
    _row("GSVA, Outline", _VAL, _THREE, 63.16, 61.51, 56.27, question="outline"),
    _row("LISA-7B ft", _REASON, _PAIR, 50.5, 53.2),
    _row("GSVA-7B ft", _REASON, _PAIR, 50.5, 56.4),
    _row("LISA", _REFZOM, _ZOM, 60.14, 61.46, 72.58),
    _row("LISA ft", _REFZOM, _ZOM, 66.41, 65.39, 93.39),
    _row("GSVA", _REFZOM, _ZOM, 67.12, 67.98, 82.66),
    _row("GSVA ft", _REFZOM, _ZOM, 68.29, 68.13, 94.59),
    _row("LISA", _ADE, "mIoU", 60.11),
    _row("GSVA", _ADE, "mIoU", 60.56),
)


def markdown_table(report: Mapping[str, str | bool | int | float | None]) -> str:
    """Our metrics, and beside them what was published on that dataset, asked in the same way.

    Args:
        report: what `evaluate` returns.

    Returns:
        A heading and a table in Markdown, in percent; a cell is blank where there is no number.
    """
    asked = (report["dataset"], report.get("question", "what"))
    is_scenes = any(name.endswith("]") for name in report)  # only our scenes tell the kinds of their expressions
    rows = [row for row in PUBLISHED if (row.dataset, row.question) == asked and not is_scenes]
    blind = ", blind" if report["blind"] else ""
    header = ["%", f"ours ({report['protocol']}{blind})", *(f"{row.model} ({PROTOCOL})" for row in rows)]
    lines = [header, ["---", *["---:"] * (1 + len(rows))]]
    for name, value in main_metrics(report).items():
        lines.append([name, *map(_percent, (value, *(row.metrics.get(name) for row in rows)))])
    form = f', asked "{report["question"]}"' if "question" in report else ""
    title = f"## {report['dataset']}: {report['num_images']} pictures, {report['num_targets']} targets{form}"
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def main_metrics(report: Mapping[str, str | bool | int | float | None]) -> dict[str, float | None]:
    """The metrics of a report, without those of single kinds of expressions."""
    return {
        name: value
        for name, value in report.items()
        if (value is None or isinstance(value, float)) and not name.endswith("]")
    }


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
