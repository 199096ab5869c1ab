"""Multi-scale deformable attention (Zhu et al. 2021, arXiv:2010.04159, eq. 3): every query looks at a few places."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from grounding_jax.models.layers import Linear, merge_heads, split_heads

Sizes = tuple[tuple[int, int], ...]  # (h, w) of the maps whose places, row by row, are the source tokens


def sample(values: jax.Array, locations: jax.Array, weights: jax.Array, sizes: Sizes) -> jax.Array:
    """Weighted sums of values between the places of several maps, bilinear, zero outside.

    Args:
        values: ``[B, S, N, K]``, the maps one after the other.
        locations: ``[B, T, N, levels, points, 2]``, x and y in pixels of the level; 0 is the middle of the first pixel.
        weights: ``[B, T, N, levels, points]``.
        sizes: sizes of the maps.

    Returns:
        ``[B, T, N, K]``.
    """
    # One head after the other, and a head's sums grow by one gather of rows at a time. XLA fuses it with its weight and
    # the addition, so that no sample is ever stored, and the values of a head stay in the cache: on a CPU it is faster
    # than storing all samples of a head, and far faster than those of all heads. The batch stays an axis of every
    # gather: where it is sharded, nothing has to be exchanged.
    one_head = jax.checkpoint(jax.vmap(lambda *row: _one_head(*row, sizes)))  # backward, a head is sampled again
    arguments = (jnp.moveaxis(x, 2, 0) for x in (values, locations, weights))
    return jnp.moveaxis(jax.lax.map(lambda head: one_head(*head), tuple(arguments)), 0, 2)


def _one_head(values: jax.Array, locations: jax.Array, weights: jax.Array, sizes: Sizes) -> jax.Array:
    """``values [S, K], locations [T, levels, points, 2], weights [T, levels, points] -> [T, K]``."""
    total = jnp.zeros((len(locations), values.shape[-1]), jnp.float32)
    starts = np.cumsum([0] + [h * w for h, w in sizes])
    for level, (h, w) in enumerate(sizes):
        table = values[starts[level] : starts[level + 1]]
        for point in range(locations.shape[2]):
            x, y = locations[:, level, point, 0], locations[:, level, point, 1]
            left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
            dx, dy = x - left, y - top
            for row, in_row in ((top, 1 - dy), (top + 1, dy)):
                for column, in_column in ((left, 1 - dx), (left + 1, dx)):
                    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
                    share = jnp.where(inside, in_row * in_column * weights[:, level, point], 0)
                    index = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
                    total = total + share[:, None] * table.at[index].get(mode="promise_in_bounds")
    return total.astype(values.dtype)


def centres(sizes: Sizes) -> np.ndarray:
    """The middle of every place of the maps as fractions of the sides, float32 ``[S, 2]``, x and y."""
    grids = [np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h) for h, w in sizes]
    return np.concatenate([np.stack(grid, axis=-1).reshape(-1, 2) for grid in grids]).astype(np.float32)


def first_offsets(heads: int, levels: int, points: int) -> np.ndarray:
    """Where untrained heads look, ``[N, levels, points, 2]`` in pixels: each in its own direction, a point a pixel."""
    angle = 2 * np.pi * np.arange(heads) / heads
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    direction /= np.abs(direction).max(-1, keepdims=True)
    steps = direction[:, None, None] * np.arange(1, points + 1)[:, None]
    return np.broadcast_to(steps, (heads, levels, points, 2))


class DeformableAttention(nn.Module):
    """Every place of the maps attends to a few places around its own on all of them (spec gella A5)."""

    heads: int
    points: int

    @nn.compact
    def __call__(self, queries: jax.Array, values: jax.Array, sizes: Sizes) -> jax.Array:
        """``queries and values [B, S, D] -> [B, S, D]``, with S places on maps of these sizes."""
        B, S, D = values.shape
        shape = (self.heads, len(sizes), self.points)
        zeros, xavier = nn.initializers.zeros, nn.initializers.xavier_uniform()
        offsets = Linear(2 * math.prod(shape), use_bias=False, kernel_init=zeros, name="offsets")(queries)
        bias = self.param("offset_bias", lambda _: jnp.asarray(first_offsets(*shape).reshape(-1), jnp.float32))
        weights = Linear(math.prod(shape), kernel_init=zeros, name="weights")(queries).astype(jnp.float32)
        weights = jax.nn.softmax(weights.reshape(B, S, self.heads, -1)).reshape(B, S, *shape)
        # In float32 from here: a pixel of a map is less than one step of bfloat16.
        offsets = (offsets.astype(jnp.float32) + bias).reshape(B, S, *shape, 2)
        own = centres(sizes)[:, None] * np.array([(w, h) for h, w in sizes]) - 0.5
        locations = offsets + own.astype(np.float32)[:, None, :, None]
        values = split_heads(Linear(D, kernel_init=xavier, name="values")(values), self.heads)
        y = sample(values, locations, weights, sizes)
        return Linear(D, kernel_init=xavier, name="out")(merge_heads(y))
