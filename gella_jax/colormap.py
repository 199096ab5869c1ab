"""Masks of entities as one picture in which every entity has its own colour (spec gella A1).

    entities = draw_entities(masks, scores, side)                # a map of numbers: who is where, once
    colours = choose_colours("random", entities, rng)            # in training anew at every step
    picture = paint(entities.index, colours)                     # uint8, normalised inside jit

Everything but `normalize_colormap` is NumPy on the host. Colours come last, so nothing ever interpolates them, and the
map of numbers, not the picture, is what the decoder is trained to find.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from grounding_jax.data.picture_resize import resized_size
from grounding_jax.models.normalize import SAM_MEAN, SAM_STD

# Painter's table of colours for places (Wang et al. 2023, arXiv:2212.02499): 80 x 80 cells, 20 x 20 of them in each of
# 4 x 4 coarse ones. Red tells the coarse cell, green the row inside it, blue the column.
_CELLS, _FINE, _COARSE = 80, 20, 4
_COARSE_STEP, _FINE_STEP = 255 // _COARSE**2, 256 // _FINE + 1

_FEWEST_LEVELS = 6  # of a channel of random colours


class EntityMap(NamedTuple):
    """Which entity is seen where.

    Attributes:
        index: int32 [S, S], the number of the mask that is seen at a pixel, from 1 on; 0 is background and padding.
        inside: (height, width) that the picture takes up at the top left.
        visible: bool [M]. The others are hidden: masks of which nothing, or too little, is seen. Their numbers do not
            occur, no query belongs to them, and they keep their places in every list.
    """

    index: np.ndarray
    inside: tuple[int, int]
    visible: np.ndarray


def draw_entities(masks: np.ndarray, scores: np.ndarray, side: int, min_area: int = 1) -> EntityMap:
    """Paints masks over one another, small ones on top, and brings them to the size of the colormap.

    Masks may overlap and need not cover the picture; crowds and void regions are left out by whoever calls. The map is
    resized as the picture is (spec gella A8), longest side to `side` and padded at the right and the bottom, but by
    nearest neighbours.

    Args:
        masks: bool [M, H, W]; others are thresholded at 0.5.
        scores: [M], of two masks of the same area the one with the better score is on top.
        side: S.
        min_area: pixels that must be seen of a mask, in the picture and again in the colormap, or it is hidden.

    Raises ValueError if the shapes are wrong or `min_area` is less than 1.
    """
    masks, scores = np.asarray(masks), np.asarray(scores)
    if masks.ndim != 3 or 0 in masks.shape[1:] or scores.shape != masks.shape[:1]:
        raise ValueError(f"masks must be [M, H, W] and scores [M], got {list(masks.shape)} and {list(scores.shape)}")
    if min_area < 1:
        raise ValueError(f"min_area is {min_area}, should be at least 1: a mask of which nothing is seen is hidden")
    if masks.dtype != bool:
        masks = masks > 0.5
    inside = resized_size(masks.shape[1:], side)
    rows, columns = (_nearest(new, old) for new, old in zip(inside, masks.shape[1:], strict=True))
    order = painting_order(np.array([np.count_nonzero(mask) for mask in masks], np.int64), scores)

    index = _draw(masks, order)
    resized = index[rows[:, None], columns]
    area, resized_area = (np.bincount(x.ravel(), minlength=len(masks) + 1)[1:] for x in (index, resized))
    visible = np.minimum(area, resized_area) >= min_area
    if resized_area[~visible].any():  # what is too small to count makes room for what lies below it
        resized = _draw(masks, order[visible[order]])[rows[:, None], columns]

    canvas = np.zeros((side, side), np.int32)
    canvas[: inside[0], : inside[1]] = resized
    return EntityMap(canvas, inside, visible)


def painting_order(areas: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """In which order masks are painted: int64 [M], positions of masks.

    Larger ones come first; of equal ones that with the lower score, then that with the higher position.

    Args:
        areas, scores: [M].
    """
    return np.lexsort((-np.arange(len(areas)), scores, -areas))


def choose_colours(kind: str, entities: EntityMap, rng: np.random.Generator) -> np.ndarray:
    """A colour for every mask, never the same twice among those seen, never black.

    Args:
        kind: "random" (`random_colours`) or "location" (`location_colours`).
        entities: the masks.
        rng: fresh in every step of training, that of `repeatable_rng` otherwise.

    Returns:
        uint8 [M, 3] for `paint`.
    """
    if kind == "random":
        return random_colours(len(entities.visible), rng)
    if kind == "location":
        return location_colours(entities)
    raise ValueError(f"the kind of colours is {kind!r}, should be random or location")


def random_colours(count: int, rng: np.random.Generator) -> np.ndarray:
    """Random colours that cannot be equal, uint8 [count, 3].

    Each is another point of a lattice, of which at most a quarter is in use, and is moved by less than a third of the
    distance between points. The black point is left out.
    """
    levels = _FEWEST_LEVELS
    while levels**3 - 1 < 4 * count:
        levels += 1
    step = 3 * 255 // (3 * levels - 2)  # the last level, moved, still fits into a byte
    points = rng.choice(levels**3 - 1, size=count, replace=False) + 1
    moves = rng.integers(0, (step - 1) // 3, size=(count, 3), endpoint=True)
    return (np.stack(np.unravel_index(points, (levels,) * 3), axis=-1) * step + moves).astype(np.uint8)


def location_colours(entities: EntityMap) -> np.ndarray:
    """Painter's colours, which tell where the centroid of what is seen of a mask lies: uint8 [M, 3], hidden ones black.

    Of two masks in the same cell of the table the larger one keeps it, of equal ones the first; the other takes the
    first free cell on a square spiral around it.

    Raises ValueError if more masks are visible than the table has cells.
    """
    if np.count_nonzero(entities.visible) > _CELLS**2:
        raise ValueError(f"{np.count_nonzero(entities.visible)} masks are visible, but there are {_CELLS**2} places")
    height, width = entities.inside
    y, x, area = _centroids(entities.index[:height, :width], len(entities.visible))
    wanted = np.stack([y / height * (_CELLS - 1), x / width * (_CELLS - 1)], axis=-1).astype(np.int64)
    cells, spiral = np.zeros_like(wanted), _spiral()
    free = np.ones((_CELLS, _CELLS), bool)
    for k in np.argsort(-area, kind="stable"):
        if not entities.visible[k]:
            continue
        cells[k] = wanted[k]
        if not free[tuple(cells[k])]:
            around = wanted[k] + spiral
            around = around[((around >= 0) & (around < _CELLS)).all(-1)]
            cells[k] = around[free[around[:, 0], around[:, 1]].argmax()]
        free[tuple(cells[k])] = False
    coarse, fine = np.divmod(cells, _FINE)
    red = 255 - (_COARSE * coarse[:, 0] + coarse[:, 1]) * _COARSE_STEP
    colours = np.stack([red, *(255 - fine.T * _FINE_STEP)], axis=-1).astype(np.uint8)
    return np.where(entities.visible[:, None], colours, np.uint8(0))


def paint(index: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """The picture: int32 [H, W] of numbers from 0 and uint8 [M, 3] of colours from 1 -> uint8 [H, W, 3], 0 is black."""
    return np.concatenate([np.zeros((1, 3), np.uint8), colours])[index]


def repeatable_rng(image_id: str, seed: int) -> np.random.Generator:
    """The generator for a picture outside of training: the same picture and seed, the same colours."""
    return np.random.default_rng([seed, zlib.crc32(image_id.encode())])


def normalize_colormap(colormap: jax.Array) -> jax.Array:
    """uint8 [..., 3] -> float32 of the same shape, as ImageNet's backbones take it; padding is background."""
    return (colormap.astype(jnp.float32) - jnp.array(SAM_MEAN)) / jnp.array(SAM_STD)  # SAM's are ImageNet's


def _draw(masks: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Numbers of bool [M, H, W], painted over one another in that order: int32 [H, W]."""
    index = np.zeros(masks.shape[1:], np.int32)
    for k in order:
        rows = np.flatnonzero(masks[k].any(1))
        if len(rows):  # most masks are small: only their boxes are gone through
            columns = np.flatnonzero(masks[k, rows[0] : rows[-1] + 1].any(0))
            box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
            np.copyto(index[box], k + 1, where=masks[k][box])
    return index


def _nearest(new: int, old: int) -> np.ndarray:
    """Which of `old` pixels is nearest to the middle of each of `new` ones, as in Pillow: int64 [new]."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _centroids(index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean row and column, in pixels, and area of the numbers 1 to count of int32 [H, W]; each [count]."""
    numbers, size = index.ravel(), count + 1
    row, column = (np.broadcast_to(axis, index.shape).ravel() for axis in np.ogrid[: len(index), : index.shape[1]])
    area = np.bincount(numbers, minlength=size)[1:]
    y, x = (np.bincount(numbers, axis, minlength=size)[1:] / np.maximum(area, 1) for axis in (row, column))
    return y, x, area


def _spiral() -> np.ndarray:
    """Steps (row, column) around a cell: ring by ring, each clockwise from the right; int64 [steps, 2]."""
    steps = np.indices((2 * _CELLS - 1,) * 2).reshape(2, -1).T - (_CELLS - 1)
    angle = np.arctan2(*steps.T) % (2 * np.pi)
    return steps[np.lexsort((angle, np.abs(steps).max(-1)))]
