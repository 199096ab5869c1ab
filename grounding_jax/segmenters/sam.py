"""SAM's automatic masks: all that it sees at the points of a grid (Kirillov et al. 2023, arXiv:2304.02643).

[proposals] = segment_everything(config, params, [image])             # parts and wholes, so they overlap
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from pycocotools import mask as coco

from grounding_jax.data.picture_resize import sam_input
from grounding_jax.inference.engine import fetch
from grounding_jax.language.batching import pad_batch
from grounding_jax.models import sam
from grounding_jax.models.mask_resize import mask_matrices, resize_masks
from grounding_jax.models.normalize import normalize_sam
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.sam.prompt_encoder import FOREGROUND
from grounding_jax.segmenters.proposals import Proposals, as_entities
from grounding_jax.sharding.mesh import num_rows, split_batch


@dataclasses.dataclass(frozen=True)
class PointGrid:
    """Where SAM is asked, and which of its masks are kept.

    The defaults are those of the automatic mask generator in Segment Anything's release.

    Attributes:
        side: points in a row and in a column.
        batch: points that are answered at a time, three masks each.
        min_iou: the predicted IoU must be above it.
        min_stability: the stability must be at least that.
        offset: distance by which the threshold of logits, 0, is moved up and down to see how stable a mask is.
        max_box_iou: IoU of boxes above which only the best of two masks is kept.
    """

    side: int = 32
    batch: int = 64
    min_iou: float = 0.88
    min_stability: float = 0.95
    offset: float = 1.0
    max_box_iou: float = 0.7


def segment_everything(
    config: SamConfig,
    params: dict,
    images: Sequence[np.ndarray],
    grid: PointGrid = PointGrid(),
    dtype=jnp.float32,
    mesh: Mesh | None = None,
) -> list[Proposals]:
    """SAM's automatic masks: all that it sees at the points of a grid, without the unsure and the repeated ones.

    Everything is computed at the picture's size, as in the release; crops of the picture are not looked at.

    Args:
        config: sizes.
        params: all parameters of the SAM.
        images: pictures uint8 [H, W, 3] of any sizes.
        grid: points to ask at, and limits of what is kept.
        dtype: dtype of the computation.
        mesh: devices that have the parameters, and get a picture each; None is one device.

    Returns:
        The proposals of each picture, whose scores are predicted IoUs; left out are masks that are "poor", "unstable"
        or "repeated".
    """
    rows, proposals = num_rows(mesh), []
    for start in range(0, len(images), rows):
        chunk = images[start : start + rows]
        padded, resized = zip(*(sam_input(one, config.image_size) for one in pad_batch(chunk, rows)), strict=True)
        batch = split_batch(mesh, (np.stack(padded), np.array(resized, np.int32)))
        embeddings = _encode_image(config, params, *batch, dtype)
        points = np.stack([grid_points(grid.side, size) for size in resized])
        sieves = [
            _Sieve(grid, mask_matrices(config.low_res, config.image_size, inside, image.shape[:2]))
            for image, inside in zip(chunk, resized, strict=False)
        ]
        for logits, iou in _decode_in_batches(config, params, embeddings, points, grid.batch, mesh):
            for row, sieve in enumerate(sieves):
                sieve.add(fetch(logits[row]), fetch(iou[row]))
        proposals += [sieve.proposals() for sieve in sieves]
    return proposals


class _Sieve:
    """Keeps of a picture's masks, as they come, those that are neither poor nor unstable."""

    def __init__(self, grid: PointGrid, matrices: tuple[np.ndarray, np.ndarray]):
        self._grid, self._matrices = grid, matrices
        self._found, self._left_out = [], {"poor": 0, "unstable": 0, "repeated": 0}

    def add(self, logits: np.ndarray, iou: np.ndarray) -> None:
        """Masks float32 [M, low, low] with their predicted IoUs [M]."""
        good = iou > self._grid.min_iou
        self._left_out["poor"] += int(np.count_nonzero(~good))
        for low, score in zip(logits[good], iou[good], strict=True):
            mask, steady = _at_picture_size(low, self._matrices, self._grid.offset)
            if steady >= self._grid.min_stability and mask.any():
                self._found.append((score, steady, box(mask), np.packbits(mask)))
            else:
                self._left_out["unstable"] += 1

    def proposals(self) -> Proposals:
        """The best of them, without the repeated."""
        found = sorted(self._found, key=lambda candidate: -candidate[0])  # of equals, that of the earlier point first
        boxes = np.array([candidate[2] for candidate in found], np.float64).reshape(-1, 4)
        kept = suppress(boxes, self._grid.max_box_iou)
        size = [len(matrix) for matrix in self._matrices]
        masks = np.zeros((len(kept), *size), bool)
        for mask, i in zip(masks, kept, strict=True):
            mask[:] = np.unpackbits(found[i][3], count=mask.size).reshape(size)
        scores, steady = (np.array([found[i][column] for i in kept], np.float32) for column in (0, 1))
        left_out = {**self._left_out, "repeated": len(found) - len(kept)}
        return Proposals(as_entities(masks, np.arange(len(kept)), scores), left_out, steady)


def grid_points(side: int, resized: tuple[int, int]) -> np.ndarray:
    """The centres of side x side cells, row by row: float32 [side * side, 2], x and y in pixels of SAM's frame."""
    y, x = np.divmod(np.arange(side * side), side)
    return ((np.stack([x, y], axis=1) + 0.5) / side * resized[::-1]).astype(np.float32)


def stability(logits: np.ndarray, offset: float) -> float:
    """The IoU of the masks [H, W] at a threshold above 0 by ``offset`` and one below; 0 where both are empty."""
    return np.count_nonzero(logits > offset) / max(np.count_nonzero(logits > -offset), 1)


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """x, y, width and height between the outermost pixels of a mask that is not empty, the last not counted.

    So does the release, and the width of one pixel is 0.
    """
    rows, columns = (_span(mask.any(axis=axis)) for axis in (1, 0))
    return columns.start, rows.start, columns.stop - 1 - columns.start, rows.stop - 1 - rows.start


def suppress(boxes: np.ndarray, max_iou: float) -> list[int]:
    """Which of the boxes float64 [M, 4] as x, y, width, height, best first, overlap no better one that is kept."""
    kept: list[int] = []
    overlaps = np.reshape(coco.iou(boxes, boxes, [False] * len(boxes)), (len(boxes), len(boxes))) > max_iou
    for i, row in enumerate(overlaps):
        if not row[kept].any():
            kept.append(i)
    return kept


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _encode_image(config: SamConfig, params: dict, padded: jax.Array, resized: jax.Array, dtype) -> jax.Array:
    """The image embeddings ``[B, h, w, C]`` of pictures uint8 ``[B, S, S, 3]``."""
    return sam.encode_image(config, params, normalize_sam(padded, resized).astype(dtype))[0]


@functools.partial(jax.jit, static_argnames="config")
def _decode_masks(
    config: SamConfig, params: dict, embeddings: jax.Array, points: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Three masks a point ``[B, M, 2]``: float32 logits ``[B, 3 M, 4h, 4w]`` and predicted IoUs ``[B, 3 M]``."""
    B, M = points.shape[:2]
    labels = jnp.full((B * M, 1), FOREGROUND)
    images, points = jnp.repeat(embeddings, M, axis=0), points.reshape(B * M, 1, 2)
    logits, iou = sam.predict_masks(config, params, images, points=points, labels=labels, multimask=True)
    logits = logits.astype(jnp.float32)
    return logits.reshape(B, -1, *logits.shape[2:]), iou.astype(jnp.float32).reshape(B, -1)


def _decode_in_batches(
    config: SamConfig, params: dict, embeddings: jax.Array, points: np.ndarray, batch: int, mesh: Mesh | None
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """`_decode_masks` of all points, a batch at a time; the last one is filled up, so that one program serves all."""
    for start in range(0, points.shape[1], batch):
        chunk = points[:, start : start + batch]
        padded_points = np.pad(chunk, ((0, 0), (0, batch - chunk.shape[1]), (0, 0)), mode="edge")
        logits, iou = _decode_masks(config, params, embeddings, split_batch(mesh, padded_points))
        own = chunk.shape[1] * (iou.shape[1] // batch)
        yield logits[:, :own], iou[:, :own]


def _at_picture_size(
    low: np.ndarray, matrices: tuple[np.ndarray, np.ndarray], offset: float
) -> tuple[np.ndarray, float]:
    """A mask bool [H, W] and its stability, from logits float32 [low, low].

    Only pixels near the mask are computed. The logits of the others are means of some that are below both thresholds.
    """
    near = low > -offset
    rows, columns = (
        _span(matrix[:, near.any(axis=axis)].any(axis=1)) for matrix, axis in zip(matrices, (1, 0), strict=True)
    )
    logits = resize_masks(low, matrices[0][rows], matrices[1][columns])
    mask = np.zeros([len(matrix) for matrix in matrices], bool)
    mask[rows, columns] = logits > 0
    return mask, stability(logits, offset)


def _span(flags: np.ndarray) -> slice:
    """From the first to the last that is true."""
    places = np.flatnonzero(flags)
    return slice(places[0], places[-1] + 1) if len(places) else slice(0)
