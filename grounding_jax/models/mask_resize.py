"""Resizing mask logits as two small matrix products: low resolution -> model frame -> crop -> picture."""

import jax
import jax.numpy as jnp
import numpy as np


def resize_matrix(out_size: int, in_size: int) -> np.ndarray:
    """Matrix float32 [out_size, in_size] of bilinear resizing, align_corners False, no antialias.

    ``resize_matrix(h, a) @ x @ resize_matrix(w, b).T`` equals torch's ``interpolate`` of x [a, b].
    """
    return _resize_rows(np.eye(in_size, dtype=np.float32), out_size)


def mask_matrices(
    low: int, frame: int, resized: tuple[int, int], original: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices that take low-resolution logits to the picture's own size, for one picture on the host.

    Args:
        low: side of the mask decoder's output (256).
        frame: side of the picture that SAM sees (1024).
        resized: (height, width) that the picture takes up in the frame.
        original: (H, W) of the picture.

    Returns:
        A_h float32 [H, low] and A_w float32 [W, low] for `resize_masks` (spec gsva a.9, post-processing).
    """
    to_frame = resize_matrix(frame, low)
    rows, columns = (_resize_rows(to_frame[:inside], size) for inside, size in zip(resized, original, strict=True))
    return rows, columns


def resize_masks(low_masks: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Logits float [M, low, low] -> float [M, H, W] with the two matrices of `mask_matrices`. M may be 0."""
    return rows @ low_masks @ columns.T


def canvas_matrices(
    low: int, frame: int, canvas: int, resized: jax.Array, original: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`mask_matrices` for traced sizes, padded to a square canvas that fits the picture; may be vmapped.

    Args:
        low: side of the mask decoder's output.
        frame: side of the picture that SAM sees.
        canvas: side of the padded result, at least H and W.
        resized: int [2], (height, width) that the picture takes up in the frame.
        original: int [2], (H, W) of the picture.

    Returns:
        A_h and A_w, float32 [canvas, low] with zero rows outside the picture, and bool [canvas, canvas], true
        for the pixels inside it.
    """
    rows = _canvas_matrix(low, frame, canvas, resized[0], original[0])
    columns = _canvas_matrix(low, frame, canvas, resized[1], original[1])
    pixels = jnp.arange(canvas)
    return rows, columns, (pixels < original[0])[:, None] & (pixels < original[1])[None, :]


def _resize_rows(matrix: np.ndarray, out_size: int) -> np.ndarray:
    """Bilinear resizing of the rows of float32 [in_size, C] to [out_size, C], in float32 like PyTorch."""
    in_size = len(matrix)
    scale = np.float32(in_size) / np.float32(out_size)
    source = np.maximum(scale * (np.arange(out_size, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    lower = np.minimum(source.astype(np.int64), in_size - 1)
    upper = np.minimum(lower + 1, in_size - 1)
    weight = (source - lower.astype(np.float32))[:, None]
    return (1 - weight) * matrix[lower] + weight * matrix[upper]


def _canvas_matrix(low: int, frame: int, canvas: int, inside: jax.Array, size: jax.Array) -> jax.Array:
    """One axis of `canvas_matrices`: float32 [canvas, low]."""
    pixels = jnp.arange(canvas)
    scale = inside.astype(jnp.float32) / size.astype(jnp.float32)
    source = jnp.maximum(scale * (pixels + 0.5) - 0.5, 0)
    lower = jnp.minimum(source.astype(jnp.int32), inside - 1)
    upper = jnp.minimum(lower + 1, inside - 1)
    weight = (source - lower)[:, None]
    matrix = (1 - weight) * _frame_rows(low, frame, lower) + weight * _frame_rows(low, frame, upper)
    return jnp.where((pixels < size)[:, None], matrix, 0.0)


def _frame_rows(low: int, frame: int, positions: jax.Array) -> jax.Array:
    """Rows `positions` of ``resize_matrix(frame, low)``, float32 [len(positions), low], without a gather.

    A bilinear weight is a hat of width 1 around the source position, clamped at both ends.
    """
    source = jnp.clip((positions + 0.5) * (low / frame) - 0.5, 0, low - 1)
    return jnp.maximum(1 - jnp.abs(source[:, None] - jnp.arange(low)), 0.0)
