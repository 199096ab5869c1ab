"""The legend of an overlay: the number and colour of every target, what was asked, and what came of it."""

from __future__ import annotations

import colorsys
import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from PIL import Image, ImageDraw

from grounding_jax.drawing.lettering import Lettering

# Light enough for dark numbers on top, in an order that keeps neighbours far apart.
COLOURS = (
    "#ff5a6e",
    "#35c2ff",
    "#ffc82e",
    "#6fdc5a",
    "#b98cff",
    "#ff9447",
    "#1fd6b8",
    "#ff7ad1",
    "#7f9cff",
    "#d3e14a",
    "#d9a066",
    "#8fd3d1",
)
BACKGROUND = "#16181d"
TEXT, QUIET = "#f3f4f6", "#9aa0ac"
RADIUS = 0.72  # of a number's disc, in heights of a letter
FINE = 4  # pixels of a shape for one of the picture, which smooths its edges
_MAX_COLUMNS, _SINGLE_COLUMN_UP_TO, _CROWDED = 3, 3, 12


class Shown(Protocol):
    """What is drawn of a target."""

    expression: str
    rejected: bool
    mask: np.ndarray
    score: float


def colour(index: int) -> str:
    """The colour of the target with this number, from 0, as "#rrggbb"; they never run out."""
    if index < len(COLOURS):
        return COLOURS[index]
    hue = index * 0.6180339887 % 1  # multiples of the golden section stay apart from one another
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hsv_to_rgb(hue, 0.55, 1.0))


def verdict(target: Shown) -> str:
    """What came of a target: its score, or that it is not there."""
    if target.rejected:
        return "[REJ] not there"
    return f"{target.score:.2f}" if target.mask.any() else f"{target.score:.2f} empty mask"


def draw_legend(width: int, targets: Sequence[Shown], caption: Sequence[str], unit: int) -> Image.Image:
    """A strip of ``width`` pixels with a row for each target.

    Args:
        width: in pixels.
        targets: in the order of their numbers.
        caption: lines above the rows; the last one stands out.
        unit: height of the letters.
    """
    letters, margin, gap = Lettering(unit), round(1.1 * unit), 1.5 * unit
    inner, edge = width - 2 * margin, 0.7 * margin
    lines = [(line, k == len(caption) - 1) for k, text in enumerate(caption) for line in letters.wrap(text, inner)]
    entries, columns = _lay_out(targets, inner, letters)
    per_column = math.ceil(len(entries) / columns)
    heights = [max(entry.height(unit) for entry in entries[row::per_column]) for row in range(per_column)]
    top = edge + 1.5 * unit * len(lines) + (0.5 * unit if lines and entries else 0)
    strip = Image.new("RGB", (width, round(top + sum(heights) + edge)), BACKGROUND)
    for k, (line, bright) in enumerate(lines):
        place = (margin, edge + (1.5 * k + 0.75) * unit)
        letters.draw(ImageDraw.Draw(strip), place, line, TEXT if bright else QUIET)
    column_width = (inner - gap * (columns - 1)) / columns
    for k, entry in enumerate(entries):
        column, row = divmod(k, per_column)
        corner = (margin + column * (column_width + gap), top + sum(heights[:row]))
        _draw_entry(strip, corner, column_width, entry, letters)
    return strip


def draw_badge(picture: Image.Image, centre: tuple[float, float], text: str, paint: str | None, unit: float) -> None:
    """A disc with a number.

    Args:
        picture: picture that it is drawn on.
        centre: (x, y) in pixels.
        text: digits of the number.
        paint: colour of the disc; None is only a grey ring.
        unit: height of the letters around it; its radius is `RADIUS` of that.
    """
    radius = RADIUS * unit
    side = 2 * math.ceil(1.2 * radius)
    disc = Image.new("RGBA", (FINE * side, FINE * side))
    pen = ImageDraw.Draw(disc)
    inner, outer = (BACKGROUND, QUIET) if paint is None else (paint, BACKGROUND)
    for reach, shade in ((1.0, outer), (0.88, inner)) if paint is None else ((1.14, outer), (1.0, inner)):
        box = [FINE * (side / 2 - reach * radius)] * 2 + [FINE * (side / 2 + reach * radius)] * 2
        pen.ellipse(box, fill=shade)
    disc = disc.resize((side, side), Image.Resampling.LANCZOS)  # Pillow's own circles have rough edges
    left, top = round(centre[0] - side / 2), round(centre[1] - side / 2)
    picture.paste(disc, (left, top), disc)
    letters = Lettering(max(1, round((0.85 if len(text) < 3 else 0.62) * unit)))
    middle = (left + side / 2 - letters.width(text) / 2, top + side / 2 + 0.05 * unit)
    letters.draw(ImageDraw.Draw(picture), middle, text, outer)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """One row: a target's number, the lines of its expression, and what came of it."""

    index: int
    lines: tuple[str, ...]
    verdict: str
    absent: bool

    def height(self, unit: int) -> float:
        return unit * (0.7 + 1.3 * len(self.lines))


def _lay_out(targets: Sequence[Shown], width: float, letters: Lettering) -> tuple[list[_Entry], int]:
    """The rows and in how many columns they stand: as many as leave every expression on one line."""
    verdicts = [verdict(target) for target in targets]
    beside = [letters.width(text) + 3.2 * letters.size for text in verdicts]  # number, gaps, verdict
    needed = max((letters.width(t.expression) + more for t, more in zip(targets, beside, strict=True)), default=0)
    columns = 1
    if len(targets) > _SINGLE_COLUMN_UP_TO:
        fitting = [c for c in range(2, _MAX_COLUMNS + 1) if c * needed + (c - 1) * 1.5 * letters.size <= width]
        columns = max(fitting, default=2 if len(targets) > _CROWDED else 1)
    room = (width - (columns - 1) * 1.5 * letters.size) / columns
    entries = [
        _Entry(k, tuple(letters.wrap(t.expression, room - beside[k])), verdicts[k], t.rejected)
        for k, t in enumerate(targets)
    ]
    return entries, columns


def _draw_entry(
    strip: Image.Image, corner: tuple[float, float], width: float, entry: _Entry, letters: Lettering
) -> None:
    unit = letters.size
    x, y = corner[0], corner[1] + unit
    paint = None if entry.absent else colour(entry.index)
    draw_badge(strip, (x + RADIUS * unit, y), str(entry.index + 1), paint, unit)
    pen = ImageDraw.Draw(strip)
    for k, line in enumerate(entry.lines):
        letters.draw(pen, (x + 2.1 * unit, y + 1.3 * unit * k), line, QUIET if entry.absent else TEXT)
    letters.draw(pen, (x + width - letters.width(entry.verdict), y), entry.verdict, QUIET)
