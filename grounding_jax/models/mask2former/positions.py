"""The sine encoding of places on a map that both decoders share."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sine_positions(h: int, w: int, width: int) -> jax.Array:
    """Sines and cosines of the row and the column of every place (spec gella A6).

    Args:
        h, w: size of the map.
        width: D, a multiple of 4.

    Returns:
        float32 ``[h, w, D]``: the first half tells the row, the second the column; each alternates sine and cosine.
    """
    y, x = _axis(h, width // 2), _axis(w, width // 2)
    y, x = jnp.broadcast_to(y[:, None], (h, w, width // 2)), jnp.broadcast_to(x, (h, w, width // 2))
    return jnp.concatenate([y, x], axis=-1)


def _axis(length: int, width: int) -> jax.Array:
    """float32 ``[length, width]``. Positions run to 2 pi whatever the length."""
    position = 2 * jnp.pi * jnp.arange(1, length + 1, dtype=jnp.float32) / (length + 1e-6)
    frequency = 10000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    angle = position[:, None] * frequency
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(length, width)
