"""Mask2Former's pixel decoder: a deformable encoder over the coarse maps, and one step of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.layers import Linear, Mlp, conv3x3, layer_norm
from grounding_jax.models.mask2former.config import Mask2FormerConfig
from grounding_jax.models.mask2former.deformable import DeformableAttention, Sizes
from grounding_jax.models.mask2former.positions import sine_positions

EPS = 1e-5  # of all norms, PyTorch's default
GROUPS = 32


def group_norm(x: jax.Array, name: str) -> jax.Array:
    """Norm over all places and the channels of a group of ``[B, h, w, D]``, in float32."""
    return nn.GroupNorm(GROUPS, epsilon=EPS, dtype=x.dtype, use_fast_variance=False, name=name)(x)


class EncoderLayer(nn.Module):
    """Post-norm deformable self attention and MLP over the places of all coarse maps, written to be scanned."""

    config: Mask2FormerConfig
    sizes: Sizes

    @nn.compact
    def __call__(self, x: jax.Array, positions: jax.Array) -> tuple[jax.Array, None]:
        """``x [B, S, D], positions [S, D] -> x``."""
        c = self.config
        y = DeformableAttention(c.heads, c.points, name="attn")(x + positions, x, self.sizes)
        x = layer_norm(x + y, EPS, "norm1")
        return layer_norm(x + Mlp(c.encoder_hidden, c.width, "relu", name="mlp")(x), EPS, "norm2"), None


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
            x = group_norm(Linear(c.width, name=f"input_proj_{i}")(x), f"input_norm_{i}")
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
        fine = group_norm(Linear(c.width, use_bias=False, name="lateral")(fine), "lateral_norm")
        fine = fine + jax.image.resize(scales[-1], fine.shape, "linear")
        fine = jax.nn.relu(group_norm(conv3x3(fine, c.width, "fine_conv"), "fine_norm"))
        return Linear(c.width, name="mask_features")(fine), scales
