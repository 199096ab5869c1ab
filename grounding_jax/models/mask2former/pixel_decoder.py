"""Mask2Former's pixel decoder: a deformable encoder over the coarse maps, and one step of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.layers import Conv3x3, LayerNorm, Linear, Mlp
from grounding_jax.models.mask2former.config import Mask2FormerConfig
from grounding_jax.models.mask2former.deformable import DeformableAttention, Sizes
from grounding_jax.models.mask2former.positions import sine_positions

EPS = 1e-5  # of all norms, PyTorch's default
GROUPS = 32


class GroupNorm(nn.Module):
    """Norm over all places and the channels of a group, in float32."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``."""
        D = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (D,))
        bias = self.param("bias", nn.initializers.zeros, (D,))
        y = x.astype(jnp.float32).reshape(len(x), -1, GROUPS, D // GROUPS)
        y = y - y.mean((1, 3), keepdims=True)
        y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 3), keepdims=True) + EPS)
        return (y.reshape(x.shape) * scale + bias).astype(x.dtype)


class EncoderLayer(nn.Module):
    """Post-norm deformable self attention and MLP over the places of all coarse maps, written to be scanned."""

    config: Mask2FormerConfig
    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, None]:
        """``x [B, S, D], positions [S, D] -> x``."""
        c = self.config
        y = DeformableAttention(c.heads, c.points, name="attn")(x + positions, x, self.sizes)
        x = LayerNorm(EPS, name="norm1")(x + y)
        return LayerNorm(EPS, name="norm2")(x + Mlp(c.encoder_hidden, c.width, "relu", name="mlp")(x)), None


class PixelDecoder(nn.Module):
    """Maps of a backbone in, maps for the transformer decoder and features of pixels out."""

    config: Mask2FormerConfig

    @nn.compact
    def __call__(self, maps: Sequence[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        """See `mask2former.decode_pixels`."""
        c, (fine, *coarse) = self.config, maps
        tokens, positions = [], []
        level_embed = self.param("level_embed", nn.initializers.normal(1.0), (len(coarse), c.width))
        for i, x in enumerate(reversed(coarse)):
            x = GroupNorm(name=f"input_norm_{i}")(Linear(c.width, name=f"input_proj_{i}")(x))
            tokens.append(x.reshape(len(x), -1, c.width))
            positions.append(sine_positions(*x.shape[1:3], c.width).reshape(-1, c.width) + level_embed[i])
        sizes = tuple(x.shape[1:3] for x in reversed(coarse))
        x, positions = jnp.concatenate(tokens, axis=1), jnp.concatenate(positions).astype(fine.dtype)
        layer = nn.remat(EncoderLayer, prevent_cse=False) if c.remat == "full" else EncoderLayer
        scanned = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=c.encoder_layers,
        )
        x, _ = scanned(c, sizes, name="layers")(x, positions)
        ends = [sum(h * w for h, w in sizes[: i + 1]) for i in range(len(sizes) - 1)]
        parts = jnp.split(x, ends, axis=1)
        scales = [part.reshape(len(x), h, w, c.width) for part, (h, w) in zip(parts, sizes, strict=True)]
        fine = GroupNorm(name="lateral_norm")(Linear(c.width, use_bias=False, name="lateral")(fine))
        fine = fine + jax.image.resize(scales[-1], fine.shape, "linear")
        fine = jax.nn.relu(GroupNorm(name="fine_norm")(Conv3x3(c.width, name="fine_conv")(fine)))
        return Linear(c.width, name="mask_features")(fine), scales
