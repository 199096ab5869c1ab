"""SAM's image encoder: a plain ViT with windowed and global attention and decomposed relative positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from grounding_jax.models.attention import attention
from grounding_jax.models.layers import LayerNorm, Linear, Mlp, merge_heads, patches, split_heads
from grounding_jax.models.sam.config import SamConfig

# Grids with more patches than this attend in blocks of queries: the 4096 x 4096 logits of one picture at 1024 px are
# 1 GiB in float32 for 16 heads.
QUERY_BLOCK = 512


def relative_bias(q: jax.Array, table_h: jax.Array, table_w: jax.Array) -> jax.Array:
    """Attention bias from decomposed relative positions (Li et al. 2022, arXiv:2112.01526, eq. 3).

    Args:
        q: unscaled queries ``[B, T, N, K]`` with their rows' and columns' embeddings gathered in the tables.
        table_h: ``[T, h, K]``, for each query the embedding of its distance to each of the h key rows.
        table_w: ``[T, w, K]``, the same for columns.

    Returns:
        float32 ``[B, N, T, h * w]``.
    """
    bias_h = jnp.einsum("BTNK,ThK->BNTh", q, table_h, preferred_element_type=jnp.float32)
    bias_w = jnp.einsum("BTNK,TwK->BNTw", q, table_w, preferred_element_type=jnp.float32)
    bias = bias_h[..., :, None] + bias_w[..., None, :]
    return bias.reshape(*bias.shape[:3], -1)


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, rel_pos_h: jax.Array, rel_pos_w: jax.Array, grid: int
) -> jax.Array:
    """Attention over a square grid, one block of queries after the other where the grid is large.

    Args:
        q, k, v: ``[B, T, N, K]`` with T = grid * grid.
        rel_pos_h, rel_pos_w: ``[2 grid - 1, K]``, embeddings of the distances query - key.
        grid: side of the grid.

    Returns:
        ``[B, T, N, K]``.
    """
    distance = np.arange(grid)[:, None] - np.arange(grid)[None, :] + grid - 1
    table_h = rel_pos_h.astype(q.dtype)[np.repeat(distance, grid, axis=0)]
    table_w = rel_pos_w.astype(q.dtype)[np.tile(distance, (grid, 1))]
    B, T, N, K = q.shape
    if T <= QUERY_BLOCK or T % QUERY_BLOCK:
        return attention(q, k, v, bias=relative_bias(q, table_h, table_w))

    def block(arguments):
        q, table_h, table_w = arguments
        return attention(q, k, v, bias=relative_bias(q, table_h, table_w))

    blocks = T // QUERY_BLOCK
    q = q.reshape(B, blocks, QUERY_BLOCK, N, K).swapaxes(0, 1)
    table_h = table_h.reshape(blocks, QUERY_BLOCK, grid, K)
    table_w = table_w.reshape(blocks, QUERY_BLOCK, grid, K)
    return jax.lax.map(block, (q, table_h, table_w)).swapaxes(0, 1).reshape(B, T, N, K)


def windows(x: jax.Array, size: int) -> jax.Array:
    """Zero-pads ``[B, h, w, D]`` to whole windows and cuts it: ``[B * windows, size, size, D]``."""
    B, h, w, D = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    return patches(x, size).reshape(-1, size, size, D)


def unwindows(x: jax.Array, grid: int) -> jax.Array:
    """Inverse of `windows` for a square grid: ``[B * windows, size, size, D] -> [B, grid, grid, D]``."""
    size, D = x.shape[1], x.shape[3]
    side = -(-grid // size)
    x = x.reshape(-1, side, side, size, size, D).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, side * size, side * size, D)[:, :grid, :grid]


class Attention(nn.Module):
    """Self attention over a square grid with relative positions."""

    config: SamConfig

    @nn.compact
    def __call__(self, x):
        """``[B, grid, grid, D] -> [B, grid, grid, D]``."""
        B, grid, _, D = x.shape
        K = D // self.config.heads
        qkv = Linear(3 * D, name="qkv")(x.reshape(B, grid * grid, D))
        q, k, v = (split_heads(part, self.config.heads) for part in jnp.split(qkv, 3, axis=-1))
        rel_pos_h = self.param("rel_pos_h", nn.initializers.zeros, (2 * grid - 1, K))
        rel_pos_w = self.param("rel_pos_w", nn.initializers.zeros, (2 * grid - 1, K))
        y = attend(q, k, v, rel_pos_h, rel_pos_w, grid)
        return Linear(D, name="proj")(merge_heads(y)).reshape(x.shape)


class Block(nn.Module):
    """Pre-norm transformer block; ``window`` 0 means global attention.

    The zero padding of the windows enters after the norm and takes part in the attention, as in the release.
    """

    config: SamConfig
    window: int

    @nn.compact
    def __call__(self, x):
        """``[B, h, w, D] -> [B, h, w, D]``."""
        c = self.config
        y = LayerNorm(c.eps, name="norm1")(x)
        if self.window:
            y = unwindows(Attention(c, name="attn")(windows(y, self.window)), c.grid)
        else:
            y = Attention(c, name="attn")(y)
        x = x + y
        return x + Mlp(c.hidden, c.width, "gelu", name="mlp")(LayerNorm(c.eps, name="norm2")(x))


class Neck(nn.Module):
    """From the encoder's width to the prompts': 1x1 convolution, norm, 3x3 convolution, norm."""

    config: SamConfig

    @nn.compact
    def __call__(self, x):
        """``[B, h, w, D] -> [B, h, w, C]``."""
        c = self.config
        x = Linear(c.prompt_width, use_bias=False, name="conv1")(x)
        x = LayerNorm(c.eps, name="norm1")(x)
        x = Conv3x3(c.prompt_width, name="conv2")(x)
        return LayerNorm(c.eps, name="norm2")(x)


class Conv3x3(nn.Module):
    """3x3 convolution with padding 1 and no bias."""

    features: int

    @nn.compact
    def __call__(self, x):
        """``[B, h, w, C] -> [B, h, w, features]``."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], self.features))
        return jax.lax.conv_general_dilated(
            x, kernel.astype(x.dtype), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


class ImageEncoder(nn.Module):
    """The whole encoder. Blocks are not scanned: windowed and global ones have tables of different sizes."""

    config: SamConfig

    @nn.compact
    def __call__(self, images):
        """Encodes pictures.

        Args:
            images: normalised, zero-padded pictures ``[B, H, W, 3]``, H = W = image_size.

        Returns:
            ``(embedding [B, h, w, C], {"block{i}": [B, h, w, D]})``.
        """
        c = self.config
        x = Linear(c.width, name="patch_embed")(patches(images, c.patch_size))
        x = x + self.param("pos_embed", nn.initializers.normal(0.02), (c.grid, c.grid, c.width)).astype(x.dtype)
        aux = {}
        for i in range(c.layers):
            x = Block(c, 0 if i in c.global_blocks else c.window, name=f"blocks_{i}")(x)
            aux[f"block{i}"] = x
        return Neck(c, name="neck")(x), aux
