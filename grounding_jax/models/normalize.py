"""Pictures as the floats that SAM and CLIP take."""

import jax
import jax.numpy as jnp

# Per-channel mean and standard deviation of RGB, in units of 0..255 (SAM) and of 0..1 (CLIP); spec gsva c.1.
SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalize_sam(padded: jax.Array, resized: jax.Array) -> jax.Array:
    """Normalises SAM's input: uint8 [B, S, S, 3], inside sizes int [B, 2] -> float32 [B, S, S, 3].

    Pixels outside the picture are zero after normalisation, as the release pads last (spec gsva c.1).
    """
    return _only_inside((padded.astype(jnp.float32) - jnp.array(SAM_MEAN)) / jnp.array(SAM_STD), resized)


def normalize_clip(image: jax.Array, resized: jax.Array | None = None) -> jax.Array:
    """Normalises CLIP's input: uint8 [..., 3] -> float32 of the same shape (spec gsva c.1).

    Where a batch [B, S, S, 3] comes with inside sizes, int [B, 2], the pixels outside are zero (spec gella A8).
    """
    values = (image.astype(jnp.float32) / 255.0 - jnp.array(CLIP_MEAN)) / jnp.array(CLIP_STD)
    return values if resized is None else _only_inside(values, resized)


def _only_inside(values: jax.Array, resized: jax.Array) -> jax.Array:
    """Zeros outside of the pictures: float32 [B, S, S, 3], int [B, 2] -> float32 [B, S, S, 3]."""
    rows = jnp.arange(values.shape[1])[None, :] < resized[:, :1]
    columns = jnp.arange(values.shape[2])[None, :] < resized[:, 1:]
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], values, 0.0)
