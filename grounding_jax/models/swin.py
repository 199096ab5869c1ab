"""Swin transformer (Liu et al. 2021, arXiv:2103.14030), the backbone of Mask2Former, in its two published forms.

    params = init(config, key)
    maps = pyramid(config, params, images)                       # for detection: four [B, h, w, C]

    params = init(config, key, detection=False)
    last, pooled = encode(config, params, images)                # stand-alone: [B, h, w, C], [B, C]

The forms differ in two things (spec gella A2). For detection every stage has an output norm of its own, and windows
keep their size; alone there is one norm at the end, and a map no larger than a window has windows of its own size that
do not shift.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import linen as nn

from grounding_jax.models.attention import attention
from grounding_jax.models.layers import (
    Linear,
    Mlp,
    layer_norm,
    merge_heads,
    patchify,
    split_heads,
    unpatchify,
)

EPS = 1e-5  # of all norms, PyTorch's default
APART = -100.0  # added to the logits of places that only the roll has put into one window


@dataclasses.dataclass(frozen=True)
class SwinConfig:
    """Sizes of a Swin transformer.

    Attributes:
        width: C of the first stage; every further stage has twice that of the one before.
        depths: blocks of each stage.
        heads: N of each stage.
        window: side of an attention window in places of the map.
        patch_size: side of a patch in pixels, the stride of the first map.
        mlp_ratio: hidden width of the MLPs over C.
        drop_path: share of the last block's branches that are dropped in training, rising linearly from 0 in the first.
        remat: "none" keeps all activations for the backward pass, "full" keeps one map a block.
    """

    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int = 7
    patch_size: int = 4
    mlp_ratio: int = 4
    drop_path: float = 0.3
    remat: str = "none"

    def __post_init__(self):
        if len(self.depths) != len(self.heads):
            raise ValueError(f"depths {self.depths} and heads {self.heads} are not of the same number of stages")
        if self.remat not in ("none", "full"):
            raise ValueError(f"remat is {self.remat!r}, should be none or full")

    @classmethod
    def tiny(cls, **changes) -> SwinConfig:
        """Swin-T."""
        return cls(**{**dict(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)), **changes})

    @classmethod
    def small(cls, **changes) -> SwinConfig:
        """Swin-S."""
        return cls(**{**dict(width=96, depths=(2, 2, 18, 2), heads=(3, 6, 12, 24)), **changes})

    @classmethod
    def base(cls, **changes) -> SwinConfig:
        """Swin-B, pre-trained at 384 pixels; ``window=7`` for the one of 224."""
        return cls(**{**dict(width=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12), **changes})

    @classmethod
    def large(cls, **changes) -> SwinConfig:
        """Swin-L, pre-trained at 384 pixels (Mask2Former on COCO); ``window=7`` for the EntitySeg models."""
        return cls(**{**dict(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12), **changes})

    @property
    def widths(self) -> tuple[int, ...]:
        """C of each stage."""
        return tuple(self.width * 2**i for i in range(len(self.depths)))


def relative_rows(window: int, side: int) -> np.ndarray:
    """Which row of a window's bias table is for which pair of places.

    Args:
        window: the side that the table was made for: it has a row for each distance, (2 window - 1)^2.
        side: side of the window in use, at most ``window``.

    Returns:
        int ``[T, T]`` with T = side * side: the row for a query and a key.
    """
    y, x = np.divmod(np.arange(side * side), side)
    dy, dx = y[:, None] - y + window - 1, x[:, None] - x + window - 1
    return dy * (2 * window - 1) + dx


def window_pieces(h: int, w: int, window: int, shift: jax.Array) -> jax.Array:
    """Which places of each window were neighbours before the map was rolled.

    A roll up and to the left brings the first rows behind the last, and the first columns likewise: windows at the
    lower and right end hold up to four pieces of the map.

    Args:
        h, w: size of the map, whole windows.
        window: side of a window.
        shift: int32, by how many places the map was rolled.

    Returns:
        int32 ``[windows, T]`` in the order of `layers.patchify`: a number for each piece.
    """
    row, column = (jnp.arange(n) >= n - shift for n in (h, w))
    return rearrange(2 * row[:, None] + column, "(h y) (w x) -> (h w) (y x)", y=window, x=window)


class WindowAttention(nn.Module):
    """Self attention inside windows, with a learned bias for every relative position."""

    heads: int
    window: int

    @nn.compact
    def __call__(self, x: jax.Array, pieces: jax.Array) -> jax.Array:
        """``[B * windows, T, C] -> [B * windows, T, C]`` where places attend inside their piece ``[windows, T]``."""
        T, C = x.shape[1:]
        q, k, v = (split_heads(Linear(C, name=name)(x), self.heads) for name in "qkv")
        rows = (2 * self.window - 1) ** 2
        table = self.param("relative_bias", nn.initializers.truncated_normal(0.02), (rows, self.heads))
        positions = table.astype(jnp.float32)[relative_rows(self.window, math.isqrt(T))].transpose(2, 0, 1)
        same = pieces[:, None, :, None] == pieces[:, None, None, :]
        bias = jnp.tile(positions + jnp.where(same, 0.0, APART), (x.shape[0] // len(pieces), 1, 1, 1))
        return Linear(C, name="o")(merge_heads(attention(q, k, v, bias=bias)))


def drop_path(x: jax.Array, keys: jax.Array | None, rate: jax.Array) -> jax.Array:
    """Drops the whole of a row of ``[B, h, w, C]`` with probability ``rate``, by the row's key ``[B]``."""
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)[:, None, None, None]
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


class Block(nn.Module):
    """Pre-norm transformer block with attention inside windows, written to be scanned.

    The shift is an array so that the blocks of a stage, of which every second one shifts its windows, are one program.
    The zeros that complete the last windows enter after the norm and take part in the attention, as in the release.

    Attributes:
        config: sizes.
        heads: N of the stage.
        side: side of the windows: ``config.window`` or that of a smaller map.
    """

    config: SwinConfig
    heads: int
    side: int

    @nn.compact
    def __call__(
        self, x: jax.Array, shift: jax.Array, rate: jax.Array, keys: jax.Array | None
    ) -> tuple[jax.Array, None]:
        """``[B, h, w, C] -> [B, h, w, C]``, with windows that are shifted by so many places.

        Given keys ``[2, B]``, each of the two branches is dropped with probability ``rate``.
        """
        c, C = self.config, x.shape[-1]
        attn_keys, mlp_keys = (None, None) if keys is None else keys
        x = x + drop_path(self.attend(layer_norm(x, EPS, "norm1"), shift), attn_keys, rate)
        y = Mlp(c.mlp_ratio * C, C, "gelu", name="mlp")(layer_norm(x, EPS, "norm2"))
        return x + drop_path(y, mlp_keys, rate), None

    def attend(self, x: jax.Array, shift: jax.Array) -> jax.Array:
        """``[B, h, w, C] -> [B, h, w, C]``."""
        _, h, w, C = x.shape
        x = jnp.pad(x, ((0, 0), (0, -h % self.side), (0, -w % self.side), (0, 0)))
        pieces = window_pieces(*x.shape[1:3], self.side, shift)
        x = patchify(jnp.roll(x, (-shift, -shift), (1, 2)), self.side)
        y = x.reshape(-1, self.side**2, C)
        y = WindowAttention(self.heads, self.config.window, name="attn")(y, pieces).reshape(x.shape)
        return jnp.roll(unpatchify(y, self.side), (shift, shift), (1, 2))[:, :h, :w]


class PatchMerging(nn.Module):
    """Four neighbours become one place of half the map and twice the width."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, C] -> [B, ceil(h / 2), ceil(w / 2), 2 C]``."""
        _, h, w, C = x.shape
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = rearrange(x, "B (h y) (w x) C -> B h w (x y C)", y=2, x=2)
        return Linear(2 * C, use_bias=False, name="reduction")(layer_norm(x, EPS, "norm"))


class Stage(nn.Module):
    """The blocks of one size of map, behind the merging that leads to it in all stages but the first."""

    config: SwinConfig
    index: int
    detection: bool

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> jax.Array:
        """``[B, h, w, C] -> [B, h, w, C]``, after merging; keys ``[blocks of all stages, 2, B]``."""
        c, i = self.config, self.index
        if i:
            x = PatchMerging(name="merge")(x)
        side, shift = c.window, c.window // 2
        if not self.detection and min(x.shape[1:3]) <= side:
            side, shift = min(x.shape[1:3]), 0
        depth, total, first = c.depths[i], sum(c.depths), sum(c.depths[:i])
        block = nn.remat(Block, prevent_cse=False) if c.remat == "full" else Block
        scanned = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=0, length=depth)
        shifts = np.arange(depth, dtype=np.int32) % 2 * shift
        rates = np.linspace(0, c.drop_path, total, dtype=np.float32)[first : first + depth]
        keys = None if keys is None else keys[first : first + depth]
        return scanned(c, c.heads[i], side, name="blocks")(x, shifts, rates, keys)[0]


class Swin(nn.Module):
    """The whole backbone, in the form for detection or the stand-alone one."""

    config: SwinConfig
    detection: bool

    @nn.compact
    def __call__(
        self, images: jax.Array, keys: jax.Array | None = None
    ) -> list[jax.Array] | tuple[jax.Array, jax.Array]:
        """See `pyramid` and `encode`."""
        c, size = self.config, self.config.patch_size
        _, H, W, _ = images.shape
        x = jnp.pad(images, ((0, 0), (0, -H % size), (0, -W % size), (0, 0)))
        x = layer_norm(Linear(c.width, name="patch_embed")(patchify(x, size)), EPS, "patch_norm")
        if keys is not None:
            keys = jax.vmap(lambda key: jax.random.split(key, (sum(c.depths), 2)), out_axes=2)(keys)
        maps = []
        for i in range(len(c.depths)):
            x = Stage(c, i, self.detection, name=f"stages_{i}")(x, keys)
            maps.append(x)
        if self.detection:
            return [layer_norm(x, EPS, f"norm{i}") for i, x in enumerate(maps)]
        x = layer_norm(x, EPS, "norm")
        return x, x.mean((1, 2))


def init(config: SwinConfig, key: jax.Array, detection: bool = True) -> dict:
    """Random parameters for `pyramid`, or for `encode` with ``detection=False``: the same trunk, other norms."""
    side = config.patch_size * config.window
    return Swin(config, detection).init(key, jnp.zeros((1, side, side, 3)))["params"]


def pyramid(config: SwinConfig, params: dict, images: jax.Array, keys: jax.Array | None = None) -> list[jax.Array]:
    """The normed map of every stage, as detectors use them.

    Args:
        config: sizes.
        params: as made by `init`.
        images: normalised pictures ``[B, H, W, 3]`` of any size.
        keys: random keys ``[B]``, one a picture, to drop branches in training; None, and nothing is dropped.

    Returns:
        Maps ``[B, h, w, C]`` at strides 4, 8, 16, 32 with C = ``config.widths``; sizes are rounded up.
    """
    return Swin(config, detection=True).apply({"params": params}, images, keys)


def encode(
    config: SwinConfig, params: dict, images: jax.Array, keys: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """The stand-alone form: ``[B, H, W, 3]`` -> the normed last map ``[B, h, w, C]`` and its mean ``[B, C]``.

    Arguments are those of `pyramid`, with parameters made by ``init(..., detection=False)``.
    """
    return Swin(config, detection=False).apply({"params": params}, images, keys)
