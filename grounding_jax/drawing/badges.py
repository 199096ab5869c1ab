"""The numbers that masks carry on a picture: each inside its mask where there is most room, clear of the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from grounding_jax.drawing.legend import BACKGROUND, FINE, RADIUS, colour, draw_badge

_CELLS = 64  # of the grid on which room is measured, along the longer side of a mask
_SMALLEST = 0.62  # of a number, as a part of the usual size
_BESIDE = 2.2  # radii from a mask that is too small for its number to that number


class Mark(NamedTuple):
    """A mask as it is drawn on a picture.

    Attributes:
        mask: bool ``[H, W]``, not empty.
        number: that it carries.
        index: index of its colour.
    """

    mask: np.ndarray
    number: int
    index: int


class _Spot(NamedTuple):
    """Where a number stands on a picture, its radius in pixels, and the point of the mask that it belongs to."""

    x: float
    y: float
    radius: float
    point: tuple[float, float]


def draw_numbers(picture: Image.Image, marks: Sequence[Mark], unit: int) -> None:
    """Puts the number of each mask on a picture; a mask that is too small has it beside, at the end of a line.

    Args:
        picture: the picture, of any size.
        marks: masks of the picture; of several with one number, the first has it.
        unit: height of the letters.
    """
    first: dict[int, Mark] = {}
    for mark in marks:
        first.setdefault(mark.number, mark)
    spots: dict[int, _Spot] = {}
    for mark in sorted(first.values(), key=lambda mark: mark.mask.sum()):  # a large one finds another place
        spots[mark.number] = _find_spot(mark.mask, picture.size, list(spots.values()), RADIUS * unit)
    for number, spot in spots.items():
        _draw_line(picture, spot, colour(first[number].index), unit / 8)
    for number, spot in spots.items():
        draw_badge(picture, (spot.x, spot.y), str(number), colour(first[number].index), spot.radius / RADIUS)


def _find_spot(mask: np.ndarray, size: tuple[int, int], taken: Sequence[_Spot], radius: float) -> _Spot:
    """The spot for a mask's number on a picture of ``size`` (width, height), of at most this radius."""
    xs, ys, inside, room = _measure_room(mask, size)
    free = room.copy()
    for other in taken:
        free = np.minimum(free, np.hypot(xs - other.x, ys[:, None] - other.y) - other.radius)
    row, column = _deepest(np.where(inside, free, -np.inf))
    if free[row, column] >= _SMALLEST * radius:
        return _within(xs[column], ys[row], min(free[row, column], radius), size)
    row, column = _deepest(np.where(inside, room, -np.inf))
    return _beside((xs[column], ys[row]), mask, size, taken, max(0.8, _SMALLEST) * radius)


def _measure_room(mask: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A grid over a mask: the places of its columns and rows on the picture, which cells are inside, bool ``[h, w]``,
    and how far each is from the edge of the mask or the picture, in pixels of the picture."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    (top, bottom), (left, right) = (rows[0], rows[-1] + 1), (columns[0], columns[-1] + 1)
    scale = min(1.0, _CELLS / max(bottom - top, right - left))
    cells = (max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale)))
    cut = Image.fromarray(mask[top:bottom, left:right].astype(np.float32))
    share = np.asarray(cut.resize(cells, Image.Resampling.BOX))
    inside = share >= min(0.5, share.max())
    across, down = size[0] / mask.shape[1], size[1] / mask.shape[0]
    steps = (right - left) * across / cells[0], (bottom - top) * down / cells[1]
    xs = left * across + (np.arange(cells[0]) + 0.5) * steps[0]
    ys = top * down + (np.arange(cells[1]) + 0.5) * steps[1]
    return xs, ys, inside, (_distance(inside) - 0.5) * min(steps)


def _distance(inside: np.ndarray) -> np.ndarray:
    """Distance from each cell to the nearest one that is not inside, float ``[h, w]``; beyond the edge, none is."""
    squared = np.where(np.pad(inside, 1), np.inf, 0.0)
    for _ in range(2):  # along one axis, then along the other
        steps = np.arange(len(squared))[:, None] - np.arange(len(squared))
        squared = (squared + (steps**2)[:, :, None]).min(1).T
    return np.sqrt(squared)[1:-1, 1:-1]


def _deepest(room: np.ndarray) -> tuple[int, int]:
    """The cell with the most room; of several, the one in their middle."""
    spots = np.argwhere(room >= room.max() - 1e-6)
    row, column = spots[np.abs(spots - spots.mean(0)).sum(1).argmin()]
    return int(row), int(column)


def _within(x: float, y: float, radius: float, size: tuple[int, int]) -> _Spot:
    """A spot inside of its mask, as far as the picture is large enough for it."""
    x, y = (min(max(v, radius), max(side - radius, 0)) for v, side in zip((x, y), size, strict=True))
    return _Spot(x, y, radius, (x, y))


def _beside(
    point: tuple[float, float], mask: np.ndarray, size: tuple[int, int], taken: Sequence[_Spot], radius: float
) -> _Spot:
    """The spot around a point that covers least: not another number, nor the mask, nor what is beyond the picture."""

    def cost(spot: _Spot) -> tuple[int, bool, int]:
        overlaps = sum(math.hypot(spot.x - other.x, spot.y - other.y) < radius + other.radius for other in taken)
        row, column = int(spot.y * mask.shape[0] / size[1]), int(spot.x * mask.shape[1] / size[0])
        covers = bool(mask[min(row, mask.shape[0] - 1), min(column, mask.shape[1] - 1)])
        return overlaps, covers, round(abs(math.hypot(spot.x - point[0], spot.y - point[1]) - reach))

    reach = _BESIDE * radius
    turns = (k * math.pi / 4 for k in (6, 7, 5, 0, 4, 1, 3, 2))  # above it first, below it last
    around = [(point[0] + reach * math.cos(turn), point[1] + reach * math.sin(turn)) for turn in turns]
    spots = [_within(x, y, radius, size)._replace(point=point) for x, y in around]
    return min(spots, key=cost)


def _draw_line(picture: Image.Image, spot: _Spot, paint: str, width: float) -> None:
    """From a number to the mask beside it."""
    if (spot.x, spot.y) == spot.point:
        return
    margin = math.ceil(2 * width)
    left, top = math.floor(min(spot.x, spot.point[0])) - margin, math.floor(min(spot.y, spot.point[1])) - margin
    right, bottom = math.ceil(max(spot.x, spot.point[0])) + margin, math.ceil(max(spot.y, spot.point[1])) + margin
    line = Image.new("RGBA", (FINE * (right - left), FINE * (bottom - top)))
    ends = [(FINE * (x - left), FINE * (y - top)) for x, y in ((spot.x, spot.y), spot.point)]
    pen = ImageDraw.Draw(line)
    for thickness, shade in ((2 * width, BACKGROUND), (width, paint)):
        pen.line(ends, shade, round(FINE * thickness))
        x, y = ends[1]
        reach = FINE * thickness
        pen.ellipse((x - reach, y - reach, x + reach, y + reach), shade)
    line = line.resize((right - left, bottom - top), Image.Resampling.LANCZOS)
    picture.paste(line, (left, top), line)
