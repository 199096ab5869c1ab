"""SAM's image encoder: a plain ViT with windowed and global attention and decomposed relative positions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from grounding_jax.models.attention import attention
from grounding_jax.models.layers import (
    Linear,
    Mlp,
    conv3x3,
    layer_norm,
    merge_heads,
    patchify,
    split_heads,
    unpatchify,
)
from grounding_jax.models.sam.config import SamConfig

# The most queries that attend at a time: the 4096 x 4096 logits of one picture at 1024 px are 1 GiB in float32 for 16
# heads.
QUERY_BLOCK = 512


def relative_bias(q: jax.Array, table_h: jax.Array, table_w: jax.Array) -> jax.Array:
    """Attention bias from decomposed relative positions (Li et al. 2022, arXiv:2112.01526, eq. 3).

    Args:
        q: unscaled queries ``[B, h, w, N, K]``.
        table_h: ``[h, y, K]``, the embedding of the distance from each query row to each of the y key rows.
        table_w: ``[w, x, K]``, the same for columns.

    Returns:
        float32 ``[B, N, h * w, y * x]``.
    """
    bias_h = jnp.einsum("BhwNK,hyK->BNhwy", q, table_h, preferred_element_type=jnp.float32)
    bias_w = jnp.einsum("BhwNK,wxK->BNhwx", q, table_w, preferred_element_type=jnp.float32)
    B, N, h, w, y = bias_h.shape
    return (bias_h[..., :, None] + bias_w[..., None, :]).reshape(B, N, h * w, y * bias_w.shape[-1])


def attend(
    q: jax.Array, k: jax.Array, v: jax.Array, rel_pos_h: jax.Array, rel_pos_w: jax.Array, grid: int
) -> jax.Array:
    """Attention over a square grid, some rows of queries after the others where the grid is large.

    Args:
        q, k, v: ``[B, T, N, K]`` with T = grid * grid.
        rel_pos_h, rel_pos_w: ``[2 grid - 1, K]``, embeddings of the distances query - key.
        grid: side of the grid.

    Returns:
        ``[B, T, N, K]``.
    """
    B, T, N, K = q.shape
    distance = np.arange(grid)[:, None] - np.arange(grid)[None, :] + grid - 1
    table_h, table_w = rel_pos_h.astype(q.dtype)[distance], rel_pos_w.astype(q.dtype)[distance]
    rows = max(n for n in range(1, grid + 1) if grid % n == 0 and (n == 1 or n * grid <= QUERY_BLOCK))

    def block(arguments):
        q, table_h = arguments
        return attention(q.reshape(B, rows * grid, N, K), k, v, bias=relative_bias(q, table_h, table_w))

    if rows == grid:
        return block((q.reshape(B, grid, grid, N, K), table_h))
    q = q.reshape(B, grid // rows, rows, grid, N, K).swapaxes(0, 1)
    table_h = table_h.reshape(grid // rows, rows, grid, K)
    return jax.lax.map(block, (q, table_h)).swapaxes(0, 1).reshape(B, T, N, K)


def window_partition(x: jax.Array, size: int) -> jax.Array:
    """Zero-pads ``[B, h, w, D]`` to whole windows and cuts it: ``[B * windows, size, size, D]``."""
    B, h, w, D = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    return patchify(x, size).reshape(-1, size, size, D)


def window_unpartition(x: jax.Array, grid: int) -> jax.Array:
    """Inverse of `window_partition` for a square grid: ``[B * windows, size, size, D] -> [B, grid, grid, D]``."""
    _, size, _, D = x.shape
    side = -(-grid // size)
    return unpatchify(x.reshape(-1, side, side, size * size * D), size)[:, :grid, :grid]


class Attention(nn.Module):
    """Self attention over a square grid with relative positions."""

    config: SamConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
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
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, D]``."""
        c = self.config
        y = layer_norm(x, c.eps, "norm1")
        if self.window:
            y = window_unpartition(Attention(c, name="attn")(window_partition(y, self.window)), c.grid)
        else:
            y = Attention(c, name="attn")(y)
        x = x + y
        return x + Mlp(c.hidden, c.width, "gelu", name="mlp")(layer_norm(x, c.eps, "norm2"))


class Neck(nn.Module):
    """From the encoder's width to the prompts': 1x1 convolution, norm, 3x3 convolution, norm."""

    config: SamConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, D] -> [B, h, w, C]``."""
        c = self.config
        x = Linear(c.prompt_width, use_bias=False, name="conv1")(x)
        x = layer_norm(x, c.eps, "norm1")
        x = conv3x3(x, c.prompt_width, "conv2")
        return layer_norm(x, c.eps, "norm2")


class ImageEncoder(nn.Module):
    """The whole encoder. Blocks are not scanned: windowed and global ones have tables of different sizes."""

    config: SamConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Encodes pictures.

        Args:
            images: normalised, zero-padded pictures ``[B, H, W, 3]``, H = W = image_size.

        Returns:
            ``(embedding [B, h, w, C], {"block{i}": [B, h, w, D]})``.
        """
        c = self.config
        x = Linear(c.width, name="patch_embed")(patchify(images, c.patch_size))
        x = x + self.param("pos_embed", nn.initializers.normal(0.02), (c.grid, c.grid, c.width)).astype(x.dtype)
        aux = {}
        for i in range(c.layers):
            x = Block(c, 0 if i in c.global_blocks else c.window, name=f"blocks_{i}")(x)
            aux[f"block{i}"] = x
        return Neck(c, name="neck")(x), aux


def resize_positions(config: SamConfig, params: dict) -> dict:
    """An encoder's parameters for pictures of another size: position tables are interpolated (Kirillov et al., A).

    Args:
        config: sizes, with the new grid.
        params: parameters of an encoder with any grid; windows stay as they are.
    """
    grid, table = config.grid, params["pos_embed"]
    resized = {**params, "pos_embed": jax.image.resize(table, (grid, grid, table.shape[2]), "cubic")}
    for i in config.global_blocks:
        block = params[f"blocks_{i}"]
        tables = {
            name: jax.image.resize(block["attn"][name], (2 * grid - 1, block["attn"][name].shape[1]), "linear")
            for name in ("rel_pos_h", "rel_pos_w")
        }
        resized[f"blocks_{i}"] = {**block, "attn": {**block["attn"], **tables}}
    return resized
