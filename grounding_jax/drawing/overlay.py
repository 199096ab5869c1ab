"""The picture a person looks at: every target in its colour on the photograph, and a legend that says what is what."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath
from PIL import Image, ImageColor, ImageFilter

from grounding_jax.drawing.badges import Mark, draw_numbers
from grounding_jax.drawing.legend import BACKGROUND, Shown, colour, draw_legend
from grounding_jax.drawing.paragraph import Piece, draw_paragraphs
from grounding_jax.files.writing import write_bytes

# Small pictures are drawn larger, at most so many times, so that the legend can be read; huge ones smaller.
MIN_SIDE, MAX_SIDE, MAX_SCALE = 960, 2048, 10
MIN_WIDTH = 640  # of the whole, however narrow the picture
_FILL = 0.45  # opacity of a target's colour
_DIM = 0.72  # brightness of what no target covers
_DARK = 0.68  # opacity of the dark around a target that is shown alone


def draw_overlay(image: np.ndarray, targets: Sequence[Shown], caption: Sequence[str] = ()) -> np.ndarray:
    """Draws targets on a picture, with a legend beneath.

    Each target has a number and a colour, on the picture and in the legend; where several lie on top of each other,
    their colours alternate in stripes. What is not there has its row in the legend, too.

    Args:
        image: uint8 ``[H, W, 3]``.
        targets: masks bool ``[H, W]``; a rejected one's is not drawn.
        caption: lines above the legend, such as a question and its answer; the last one stands out.

    Returns:
        uint8 ``[h, w, 3]``, as large as is pleasant to look at.
    """
    return _with_strip(draw_targets(image, targets), lambda width, unit: draw_legend(width, targets, caption, unit))


def draw_captioned(painted: Image.Image, paragraphs: Sequence[Sequence[Piece]]) -> np.ndarray:
    """A picture with a text beneath, in which what is drawn is named.

    Args:
        painted: the picture that `draw_marks` returns.
        paragraphs: see `draw_paragraphs`; their indices are those of the colours.

    Returns:
        uint8 ``[h, w, 3]``.
    """
    return _with_strip(painted, lambda width, unit: draw_paragraphs(width, paragraphs, unit))


def draw_targets(image: np.ndarray, targets: Sequence[Shown]) -> Image.Image:
    """`draw_overlay` without the legend."""
    drawn = ((k, target.mask) for k, target in enumerate(targets) if not target.rejected and target.mask.any())
    return draw_marks(image, [Mark(mask, k + 1, k) for k, mask in drawn])


def draw_marks(image: np.ndarray, marks: Sequence[Mark]) -> Image.Image:
    """Draws masks in their colours on a picture, each with its number.

    A mask may be there several times with one number: it then has the colours of all in stripes.

    Args:
        image: uint8 ``[H, W, 3]``.
        marks: masks bool ``[H, W]``.

    Returns:
        RGB, as large as is pleasant to look at.
    """
    size = _view_size(*image.shape[:2])
    view = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    layers = [_layer(mark.mask, size, colour(mark.index)) for mark in marks]
    painted = Image.fromarray(_paint(np.asarray(view), layers, _unit(size[0])))
    draw_numbers(painted, marks, _unit(size[0]))
    return painted


def draw_spotlight(mask: np.ndarray, size: tuple[int, int], index: int) -> Image.Image:
    """What lies over a picture to show one target alone: dark where it is not, along its edge its colour.

    Args:
        mask: bool ``[H, W]``.
        size: (width, height) of the picture as it is drawn.
        index: index of the target.

    Returns:
        RGBA, of that size.
    """
    layer = _layer(mask, size, colour(index))
    outline = _outline(layer, max(2.0, _unit(size[0]) / 6))[..., None]
    dark = np.broadcast_to(np.array([0, 0, 0, 255 * _DARK], np.float32), (size[1], size[0], 4)).copy()
    dark[layer.at][..., 3] *= 1 - layer.cover
    dark[layer.at] += outline * ([*layer.colour, 255] - dark[layer.at])
    return Image.fromarray(dark.round().astype(np.uint8))


def side_by_side(cards: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures beside each other on one card, from the top; below a shorter one, the legend's background goes on.

    Args:
        cards: uint8 ``[h, w, 3]``, of any sizes.

    Returns:
        uint8 ``[h, w, 3]``: as tall as the tallest, as wide as all together.
    """
    heights, widths = zip(*(card.shape[:2] for card in cards), strict=True)
    whole = Image.new("RGB", (sum(widths), max(heights)), BACKGROUND)
    for left, card in zip(itertools.accumulate(widths, initial=0), cards, strict=False):
        whole.paste(Image.fromarray(card), (left, 0))
    return np.asarray(whole)


def write_png(file: epath.Path, picture: np.ndarray) -> None:
    """Writes a picture, uint8 ``[H, W, 3]``."""
    png = io.BytesIO()
    Image.fromarray(picture).save(png, "PNG", compress_level=3)
    write_bytes(file, png.getvalue())


def _with_strip(painted: Image.Image, strip: Callable[[int, int], Image.Image]) -> np.ndarray:
    """A picture with a strip beneath, which is drawn for a width and a height of letters."""
    width = max(painted.width, MIN_WIDTH)
    beneath = strip(width, _unit(painted.width))
    card = Image.new("RGB", (width, painted.height + beneath.height), BACKGROUND)
    card.paste(painted, ((width - painted.width) // 2, 0))
    card.paste(beneath, (0, painted.height))
    return np.asarray(card)


def _unit(width: int) -> int:
    """Height of the letters for a view of this width."""
    return max(width, MIN_WIDTH) // 42


def _view_size(height: int, width: int) -> tuple[int, int]:
    """(width, height) at which a picture is drawn."""
    side = max(height, width)
    scale = min(max(1.0, min(MIN_SIDE / side, MAX_SCALE)), MAX_SIDE / side)
    return max(1, round(width * scale)), max(1, round(height * scale))


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A target at the size of the view, cut to where it is.

    Attributes:
        at: the cut, as slices of rows and columns.
        cover: share of each pixel that it covers, float32 ``[h, w]`` in [0, 1].
        colour: float32 ``[3]``.
    """

    at: tuple[slice, slice]
    cover: np.ndarray
    colour: np.ndarray


def _layer(mask: np.ndarray, size: tuple[int, int], colour: str) -> _Layer:
    """Renders a mask for a view of ``size`` (width, height)."""
    resample = Image.Resampling.BICUBIC if mask.shape[1] < size[0] else Image.Resampling.BOX
    soft = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).resize(size, resample)
    margin = 4 + max(size) // 100
    left, top, right, bottom = soft.getbbox() or (0, 0, 1, 1)
    box = (max(left - margin, 0), max(top - margin, 0), min(right + margin, size[0]), min(bottom + margin, size[1]))
    cover = np.asarray(soft.crop(box), np.float32) / 255
    return _Layer(
        (slice(box[1], box[3]), slice(box[0], box[2])), cover, np.array(ImageColor.getrgb(colour), np.float32)
    )


def _paint(view: np.ndarray, layers: Sequence[_Layer], unit: int) -> np.ndarray:
    """Dims what is not meant, then lays fills, a dark seam and bright outlines over it: -> uint8 ``[h, w, 3]``."""
    if not layers:
        return view
    line = max(2.0, unit / 6)
    covered = np.zeros(view.shape[:2], np.float32)
    for layer in layers:
        covered[layer.at] = np.maximum(covered[layer.at], layer.cover)
    view = view * (_DIM + (1 - _DIM) * covered)[..., None]
    outlines = [_outline(layer, line) for layer in layers]
    stripe = max(4, unit // 2)
    view = _blend(view, layers, [_FILL * layer.cover for layer in layers], stripe)
    black = np.zeros(3, np.float32)
    seams = [dataclasses.replace(layer, colour=black) for layer in layers]
    view = _blend(view, seams, [0.55 * _outline(layer, 2 * line) for layer in layers], stripe)
    return _blend(view, layers, outlines, stripe).round().clip(0, 255).astype(np.uint8)


def _outline(layer: _Layer, width: float) -> np.ndarray:
    """Opacity of a line of ``width`` pixels along the edge of a target, float32 ``[h, w]``.

    Blurred by r, a straight edge has the value 0.5 + d / (2.5 r) at the distance d.
    """
    blurred = Image.fromarray((255 * layer.cover).astype(np.uint8)).filter(ImageFilter.GaussianBlur(width))
    distance = np.abs(np.asarray(blurred, np.float32) / 255 - 0.5) * 2.5 * width
    return np.clip(width / 2 + 0.5 - distance, 0, 1)


def _blend(view: np.ndarray, layers: Sequence[_Layer], opacities: Sequence[np.ndarray], stripe: int) -> np.ndarray:
    """Lays colours over a picture; where n of them meet, they take turns in diagonal stripes."""
    rows, columns = np.indices(view.shape[:2], np.int32, sparse=True)
    turn = (rows + columns) // stripe
    meeting = np.zeros(view.shape[:2], np.int32)
    for layer, opacity in zip(layers, opacities, strict=True):
        meeting[layer.at] += opacity > 0.02
    turn %= np.maximum(meeting, 1)
    for layer, opacity in zip(layers, opacities, strict=True):
        shown = np.where(turn[layer.at] == 0, opacity, 0)[..., None]
        view[layer.at] += shown * (layer.colour - view[layer.at])
        turn[layer.at] -= opacity > 0.02
    return view
