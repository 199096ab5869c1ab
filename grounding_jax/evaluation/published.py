"""A table that has published numbers beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Report = Mapping[str, str | bool | int | float | None]


class Published(NamedTuple):
    """What was published of one model on one dataset.

    Attributes:
        model: the checkpoint, or the row of the paper's table.
        dataset: as `datasets.open_dataset` takes it.
        metrics: fractions, called as in our reports.
        asked: wording of GSVA's questions, or the source of the masks that a GELLA got, where there are several.
    """

    model: str
    dataset: str
    metrics: dict[str, float]
    asked: str = ""


def published(model: str, dataset: str, names: str, *percents: float, asked: str = "") -> Published:
    """A row from percents, as they were printed; ``names`` are those of the metrics, with spaces between them."""
    metrics = {name: round(value / 100, 6) for name, value in zip(names.split(), percents, strict=True)}
    return Published(model, dataset, metrics, asked)


def comparison_table(title: str, ours: str, report: Report, rows: Sequence[Published]) -> str:
    """A heading and a table in Markdown, in percent; a cell is blank where there is no number.

    Args:
        title: text of the heading.
        ours: name of our column.
        report: the report that an evaluation returns.
        rows: published results, a column each.
    """
    header = ["%", ours, *(row.model for row in rows)]
    lines = [header, ["---", *["---:"] * (1 + len(rows))]]
    for name, value in main_metrics(report).items():
        lines.append([name, *map(percent, (value, *(row.metrics.get(name) for row in rows)))])
    return "\n".join([f"## {title}", "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def main_metrics(report: Report) -> dict[str, float | None]:
    """The metrics of a report, without those of single kinds of expressions or categories, "[...]"."""
    return {
        name: value
        for name, value in report.items()
        if (value is None or isinstance(value, float)) and not name.endswith("]")
    }


def percent(value: float | None) -> str:
    """A cell of a table; empty where there is no number."""
    return "" if value is None else f"{100 * value:.2f}"
