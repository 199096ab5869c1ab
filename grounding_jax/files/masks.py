"""Masks in every encoding that the public datasets use, to boolean arrays and back to COCO run lengths."""

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from pycocotools import mask as coco

from grounding_jax.files.pictures import MOST_PIXELS

# A polygon needs three corners; the datasets have degenerate ones too, which are left out (spec gsva h 14).
_MIN_POLYGON_NUMBERS = 6
# How far a polygon may reach, in sides of its picture, and how long its outline may be in pixels: pycocotools draws it
# into memory whole, pixels outside of the picture included, before it looks at the picture.
_REACH = 64
_LONGEST_OUTLINE = 4_000_000
_MOST_SYMBOLS = 12  # of one compressed number: 60 bits


class RunLengths(TypedDict):
    """COCO's run lengths of a mask of size [H, W], down the columns, false first; as a list or compressed."""

    size: list[int]
    counts: list[int] | str


# One mask as COCO's files have it: polygons [x0, y0, x1, y1, ...], run lengths, or several of one of these.
Segmentation = list[list[float] | RunLengths] | RunLengths


def decode_mask(segmentation: Segmentation, size: tuple[int, int]) -> np.ndarray:
    """One instance's mask -> bool [H, W].

    Args:
        segmentation: a COCO segmentation: a list of polygons [x0, y0, x1, y1, ...], one run-length dict
            {"size", "counts"} with counts as a list, a string or bytes, or a list of these (spec gsva g).
            They are united; none, or only polygons of fewer than three corners, is an empty mask.
        size: (H, W) of the picture.

    Raises ValueError if the segmentation is malformed or of another size, or has numbers that are not finite or reach
    far out of the picture.
    """
    return coco.decode(_to_rle(segmentation, size)).astype(bool)


def union_mask(segmentations: Sequence[Segmentation], size: tuple[int, int]) -> np.ndarray:
    """The union of several instances -> bool [H, W], empty where there are none (spec gsva c.4, h 26)."""
    rles = [_to_rle(segmentation, size) for segmentation in segmentations]
    return coco.decode(_union(rles, size)).astype(bool)


def mask_area(segmentation: Segmentation, size: tuple[int, int]) -> int:
    """How many pixels `decode_mask` has, without decoding it."""
    return int(coco.area(_to_rle(segmentation, size)))


def union_is_empty(segmentations: Sequence[Segmentation], size: tuple[int, int]) -> bool:
    """Whether `union_mask` has no pixel, without decoding it."""
    return not any(mask_area(segmentation, size) for segmentation in segmentations)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """bool [H, W] -> COCO run lengths {"size": [H, W], "counts": str}, as JSON takes it."""
    rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(length) for length in rle["size"]], "counts": rle["counts"].decode("ascii")}


def mask_record(mask: np.ndarray) -> dict[str, Any]:
    """bool [H, W] -> {"segmentation": run lengths, "bbox": [x, y, width, height], "area": pixels}."""
    rle = encode_mask(mask)
    return {"segmentation": rle, "bbox": coco.toBbox(rle).tolist(), "area": int(coco.area(rle))}


def draw_polygon(canvas: np.ndarray, points: Sequence[Sequence[float]], value: int) -> None:
    """Draws a filled polygon with its outline into uint8 [H, W] in place, pixel by pixel as OpenCV does.

    That is ``cv2.polylines(canvas, [points], True, value, 1)`` followed by ``cv2.fillPoly(canvas, [points],
    value)``: coordinates are truncated to integers, the inside is even-odd, the outline is one pixel
    wide, and what lies outside the canvas is cut off (spec gsva g, ReasonSeg).

    Args:
        canvas: uint8 [H, W].
        points: corners (x, y) in pixels; one or two give a dot or a line.
        value: number that is written.

    Raises ValueError unless the points are pairs of finite numbers that are not far out of the picture.
    """
    try:
        corners = np.asarray(points, np.float64)
    except (TypeError, ValueError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
        raise ValueError("the points of a polygon must be pairs of finite numbers")
    if np.abs(corners).max(initial=0) > _REACH * max(canvas.shape):
        far = corners.ravel()[np.abs(corners).argmax()]
        raise ValueError(
            f"a point of a polygon is at {far:g}, far out of the picture of {canvas.shape[1]} x {canvas.shape[0]}"
        )
    edges = []
    starts = corners.astype(np.int64).tolist()
    for start, end in zip(starts, starts[1:] + starts[:1], strict=True):
        clipped_start, clipped_end, visible = _clip_line(canvas.shape, start, end)
        if visible:
            _draw_line(canvas, clipped_start, clipped_end, value)
        if start[1] != end[1]:
            edges.append(_fill_edge(start, end, clipped_start, clipped_end))
    if edges:
        _fill_between(canvas, np.array(edges, np.int64), value)


def _to_rle(segmentation: Segmentation, size: tuple[int, int]) -> dict[str, Any]:
    """Any COCO segmentation as one compressed run-length dict of `size`."""
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise ValueError(f"a mask must have 1 to {MOST_PIXELS:,} pixels, not {size[0]} x {size[1]}")
    parts = [segmentation] if isinstance(segmentation, dict) else segmentation
    if not isinstance(parts, list):
        raise ValueError(f"a segmentation must be a list or a run-length dict, got {type(parts).__name__}")
    if all(isinstance(part, dict) for part in parts):
        return _union([_compress(part, size) for part in parts], size)
    if not all(isinstance(part, list) for part in parts):
        raise ValueError("a segmentation must hold polygons [x0, y0, x1, y1, ...] or run-length dicts")
    polygons = [part for part in parts if len(part) % 2 == 0 and len(part) >= _MIN_POLYGON_NUMBERS]
    for place, polygon in enumerate(polygons):
        _check_polygon(polygon, size, f"polygon {place}")
    return _union(coco.frPyObjects(polygons, *size) if polygons else [], size)


def _check_polygon(polygon: list[float], size: tuple[int, int], where: str) -> None:
    """Raises ValueError unless pycocotools can draw a polygon in little time and memory."""
    reach = _REACH * max(size)
    for place, number in enumerate(polygon):
        if isinstance(number, bool) or not isinstance(number, int | float) or number - number != 0:
            raise ValueError(f"number {place} of {where} must be finite, got {number!r}")
        if abs(number) > reach:
            shown = f"{min(max(number, -1e300), 1e300):g}"  # a whole number may be too long for a text
            raise ValueError(f"number {place} of {where} is {shown}, far out of the picture of {size[1]} x {size[0]}")
    corners = np.reshape(polygon, (-1, 2))
    outline = np.abs(corners - np.roll(corners, 1, axis=0)).max(1).sum()
    if outline > _LONGEST_OUTLINE:
        raise ValueError(
            f"the outline of {where} is {outline:,.0f} pixels long; at most {_LONGEST_OUTLINE:,} are drawn"
        )


def _compress(rle: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """One run-length dict, counts a list, a string or bytes -> the same with bytes; checks that they fit."""
    if not isinstance(rle.get("size"), list | tuple) or list(rle["size"]) != list(size):
        raise ValueError(f"run lengths of size {rle.get('size')} do not fit a picture of {list(size)}")
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if not isinstance(counts, bytes | list):
        raise ValueError(f"counts of run lengths must be a list or a string, got {type(counts).__name__}")
    pixels = size[0] * size[1]
    if isinstance(counts, bytes):
        runs = _unpack_counts(counts, pixels)
    elif all(isinstance(run, int) and not isinstance(run, bool) and abs(run) <= pixels for run in counts):
        runs = np.array(counts, np.int64)
    else:
        raise ValueError(f"run lengths must be whole numbers that add up to {size[0]} x {size[1]} pixels")
    if (runs < 0).any() or runs.sum() != pixels:
        raise ValueError(f"run lengths must add up to {size[0]} x {size[1]} pixels, got {runs.sum()}")
    compressed = {"size": list(size), "counts": counts}
    return compressed if isinstance(counts, bytes) else coco.frPyObjects(compressed, *size)


def _unpack_counts(counts: bytes, pixels: int) -> np.ndarray:
    """COCO's compressed counts of a mask of so many pixels -> run lengths int64 [R].

    Decoded here only to be checked: pycocotools reads memory it never wrote where the runs end too early.
    """
    symbols = np.frombuffer(counts, np.uint8).astype(np.int64) - ord("0")
    ends = np.flatnonzero(symbols & 32 == 0)
    if len(symbols) == 0 or symbols.min() < 0 or symbols.max() > 63 or ends[-1:] != len(symbols) - 1:
        raise ValueError("the counts of run lengths are cut off or not in COCO's compressed form")
    # A number is 5 bits a symbol, lowest first, negative where the highest bit of its last symbol is set.
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > _MOST_SYMBOLS:
        raise ValueError(f"the counts of run lengths have a number of {lengths.max()} symbols")
    places = np.arange(len(symbols)) - np.repeat(ends - lengths + 1, lengths)
    numbers = np.add.reduceat((symbols & 31) << (5 * places), ends - lengths + 1)
    numbers -= np.where(symbols[ends] & 16, 1 << (5 * lengths), 0)
    if np.abs(numbers).max() > pixels:
        raise ValueError(f"run lengths must be of 0 to {pixels} pixels, got {np.abs(numbers).max()}")
    # From the fourth on, each is the difference to the one before the last.
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def _union(rles: list[dict[str, Any]], size: tuple[int, int]) -> dict[str, Any]:
    """Unites compressed run-length dicts of one size; none gives the empty mask."""
    if not rles:
        return coco.frPyObjects({"size": list(size), "counts": [size[0] * size[1]]}, *size)
    return coco.merge(rles)


def _draw_line(canvas: np.ndarray, start: list[int], end: list[int], value: int) -> None:
    """Draws a line of 8-connected pixels inside the canvas, both ends included, from left to right."""
    (x0, y0), (x1, y1) = (start, end) if start[0] <= end[0] else (end, start)
    width, height = x1 - x0, abs(y1 - y0)
    major, minor = max(width, height), min(width, height)
    steps = np.arange(major + 1)
    # Bresenham's line: the minor coordinate is minor / major * step, rounded half down.
    bends = (2 * minor * steps + major - 1) // (2 * major) if major else steps
    across, down = (steps, bends) if width >= height else (bends, steps)
    canvas[y0 + (down if y1 >= y0 else -down), x0 + across] = value


def _clip_line(shape: tuple[int, ...], start: list[int], end: list[int]) -> tuple[list[int], list[int], bool]:
    """Cuts a line (x, y) -> (x, y) off at the canvas, rows first, in whole pixels.

    Returns the two ends and whether any of the line is visible. An invisible one is returned as far as it was
    cut when that was noticed, since OpenCV goes on to fill with it.
    """
    ends = [list(start), list(end)]
    last = (shape[1] - 1, shape[0] - 1)

    def sides(axis: int) -> tuple[int, int]:
        first, second = (int(point[axis] > last[axis]) - int(point[axis] < 0) for point in ends)
        return first, second

    if any(first == second != 0 for first, second in map(sides, (0, 1))):
        return *ends, False
    for axis in (1, 0):
        beyond = sides(axis)
        if beyond[0] == beyond[1] != 0:
            return *ends, False
        for point, other, side in zip(ends, ends[::-1], beyond, strict=True):
            if side:
                border = last[axis] if side > 0 else 0
                numerator = (border - point[axis]) * (other[1 - axis] - point[1 - axis])
                point[1 - axis] += _truncated_quotient(numerator, other[axis] - point[axis])
                point[axis] = border
    return *ends, True


def _fill_edge(
    start: list[int], end: list[int], clipped_start: list[int], clipped_end: list[int]
) -> tuple[int, int, int, int]:
    """(first row, row after the last, x at the first row, x per row) of an edge that is not horizontal.

    x is in units of 2**-16 pixel. The slope is that of the clipped line, as in OpenCV, whose whole-pixel ends
    make it differ a little from the polygon's own.
    """
    (x0, y0), (x1, y1) = clipped_start, clipped_end
    if y0 == y1:
        y0, y1 = start[1], end[1]
    slope = _truncated_quotient((x1 - x0) << 16, y1 - y0)
    if start[1] < end[1]:
        return start[1], end[1], (x0 << 16) + (start[1] - y0) * slope, slope
    return end[1], start[1], (x1 << 16) + (end[1] - y1) * slope, slope


def _fill_between(canvas: np.ndarray, edges: np.ndarray, value: int) -> None:
    """Fills every row of the canvas between the crossings of int64 [E, 4] edges of `_fill_edge`, even-odd."""
    tops, bottoms, xs, slopes = edges.T
    height, width = canvas.shape
    rows = np.arange(max(tops.min(), 0), min(bottoms.max(), height))[:, None]
    crossed = (tops <= rows) & (rows < bottoms)
    # Sorted, the crossings of a row come first; they are even in number, as the polygon is closed.
    crossings = np.sort(np.where(crossed, xs + (rows - tops) * slopes, np.iinfo(np.int64).max))
    pairs = crossings[:, : len(edges) // 2 * 2]
    firsts = np.clip(-(-pairs[:, 0::2] >> 16), 0, width)
    stops = np.clip((pairs[:, 1::2] >> 16) + 1, 0, width)
    inside = firsts < stops
    ys = np.broadcast_to(rows, inside.shape)
    for y, first, stop in zip(*(values[inside].tolist() for values in (ys, firsts, stops)), strict=True):
        canvas[y, first:stop] = value


def _truncated_quotient(numerator: int, denominator: int) -> int:
    """Integer division towards zero, as in C."""
    quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient
