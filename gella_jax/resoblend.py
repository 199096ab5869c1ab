"""ResoBlend: features of the picture and of the colormap, of different resolutions, blended (spec gella A4, eq. 7-8).

config = ResoBlendConfig.skip(channels)
params = init(config, key)
maps = blend(config, params, image_features, maps)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import linen as nn

from grounding_jax.models.attention import attention
from grounding_jax.models.layers import Linear, Mlp, conv3x3, layer_norm, merge_heads, split_heads
from grounding_jax.models.mask2former.positions import sine_positions

EPS = 1e-5  # of all norms, PyTorch's default
BLOCK = 2**22  # logits of a picture that exist at a time, 16 MiB in float32


@dataclasses.dataclass(frozen=True)
class ResoBlendConfig:
    """Sizes and switches of ResoBlend.

    Attributes:
        channels: C of the colormap's maps, one scale after the other.
        image_width: width of the picture's features.
        width: D.
        hidden: F of the MLPs.
        heads: N of all attentions.
        sa, ca, ff, res, conv: self attention among the picture's features, cross attention between those and a map,
            MLP, residual connection, and a 3x3 convolution, 1x1 if off (Table 7). Without cross attention, nothing of
            the picture is used.
        query: "image", as written in the paper: the picture looks at the masks, whose details go through a grid of
            patches. "mask": the masks look at the picture, at their own resolution.
        mask_skip: adds the maps to the result, so that no detail is lost.
        project: brings the picture's features to the width of the blend; without, they must have it.
    """

    channels: tuple[int, ...]
    image_width: int = 1024
    width: int = 256
    hidden: int = 1024
    heads: int = 8
    sa: bool = True
    ca: bool = True
    ff: bool = True
    res: bool = True
    conv: bool = True
    query: str = "image"
    mask_skip: bool = False
    project: bool = True

    def __post_init__(self):
        if self.query not in ("image", "mask"):
            raise ValueError(f"query is {self.query!r}, should be image or mask")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads don't divide the width {self.width}")
        if not self.project and self.width != self.image_width:
            raise ValueError(
                f"width is {self.width}, must be that of the picture, {self.image_width}, to do without project"
            )

    @classmethod
    def paper(cls, channels: tuple[int, ...], **changes) -> ResoBlendConfig:
        """As written in the paper."""
        return cls(channels, **changes)

    @classmethod
    def literal(cls, channels: tuple[int, ...], **changes) -> ResoBlendConfig:
        """As written in the paper to the letter: as wide as the picture's features, which are added unprojected."""
        width = changes.get("image_width", cls.image_width)
        return cls(channels, **{**dict(width=width, hidden=4 * width, project=False), **changes})

    @classmethod
    def skip(cls, channels: tuple[int, ...], **changes) -> ResoBlendConfig:
        """As written in the paper, and the maps are added to the result; what is meant for use."""
        return cls(channels, **{**dict(mask_skip=True), **changes})

    @classmethod
    def mask_query(cls, channels: tuple[int, ...], **changes) -> ResoBlendConfig:
        """The masks look at the picture."""
        return cls(channels, **{**dict(query="mask", mask_skip=True), **changes})


def attention_in_blocks(q: jax.Array, k: jax.Array, v: jax.Array, block: int = BLOCK) -> jax.Array:
    """`attention` that has no more than about ``block`` logits of a picture at a time, forward and backward.

    At 800 pixels 576 patches look at 40,000 places, or the places at the patches: 737 MB of logits for a picture.

    Args:
        q: queries ``[B, T, N, K]``.
        k, v: keys and values ``[B, S, N, K]``.
        block: see above.

    Returns:
        ``[B, T, N, K]``.
    """
    T, N, S = *q.shape[1:3], k.shape[1]
    if block >= T * N * S:
        return attention(q, k, v)
    # One head after the other, and of a head some queries after the others. The softmax of a query is whole, so nothing
    # has to be rescaled as with blocks of keys, and it does not matter which of the two sides is the long one. The
    # batch stays an axis: where it is sharded, nothing has to be exchanged.
    blocks = -(-T * S // block)
    q = jnp.pad(q, ((0, 0), (0, -T % blocks), (0, 0), (0, 0)))
    q = rearrange(q, "B (i T) N K -> N i B T 1 K", i=blocks)
    k, v = (rearrange(x, "B S N K -> N B S 1 K") for x in (k, v))

    def one_head(arguments):
        q, k, v = arguments
        return jax.lax.map(jax.checkpoint(lambda q: attention(q, k, v)), q)

    y = jax.lax.map(one_head, (q, k, v))
    return rearrange(y, "N i B T 1 K -> B (i T) N K")[:, :T]


class Attention(nn.Module):
    """Every place of one map looks at all places of another (or the same one), both with their positions."""

    heads: int

    @nn.compact
    def __call__(self, looking: jax.Array, source: jax.Array) -> jax.Array:
        """``looking [B, h, w, D], source [B, y, x, D] -> [B, h, w, D]``."""
        D = looking.shape[-1]
        inputs = {"q": placed(looking), "k": placed(source), "v": source}
        q, k, v = (
            split_heads(Linear(D, name=name)(x.reshape(len(x), -1, D)), self.heads) for name, x in inputs.items()
        )
        return Linear(D, name="o")(merge_heads(attention_in_blocks(q, k, v)).reshape(looking.shape))


def placed(x: jax.Array) -> jax.Array:
    """A map ``[B, h, w, D]`` with the positions of its places added."""
    return x + sine_positions(*x.shape[1:]).astype(x.dtype)


class Scale(nn.Module):
    """The blend of one map of the colormap with the features of the picture."""

    config: ResoBlendConfig

    @nn.compact
    def __call__(self, masks: jax.Array, image: jax.Array | None, refined: jax.Array | None) -> jax.Array:
        """``masks [B, h, w, C]``, the picture's features before and behind self attention -> ``[B, h, w, C]``."""
        c, C = self.config, masks.shape[-1]
        x = shortcut = layer_norm(Linear(c.width, name="mask_proj")(masks), EPS, "mask_norm")
        if c.ca:
            looking, source = (refined, x) if c.query == "image" else (x, refined)
            shortcut = image if c.query == "image" else x  # of the side that looks, at the width of the blend
            x = Attention(c.heads, name="cross_attn")(looking, source)
        if c.ff:
            x = Mlp(c.hidden, c.width, "gelu", name="mlp")(x)
        if c.res:
            x = x + shortcut
        if c.conv:
            bias = self.param("conv_bias", nn.initializers.zeros, (C,))
            x = conv3x3(x, C, "conv") + bias.astype(x.dtype)
        else:
            x = Linear(C, name="point")(x)
        x = jax.image.resize(x, masks.shape, "linear", antialias=False)
        return x + masks if c.mask_skip else x


class ResoBlend(nn.Module):
    """All scales, which share what is done to the picture's features alone."""

    config: ResoBlendConfig

    @nn.compact
    def __call__(self, image_features: jax.Array, maps: Sequence[jax.Array]) -> list[jax.Array]:
        """See `blend`."""
        c, image, refined = self.config, None, None
        if c.ca:
            P = image_features.shape[1]
            side = math.isqrt(P)
            if side**2 != P:
                raise ValueError(f"the picture has {P} patches, which are no square grid")
            image = image_features
            if c.project:
                image = Linear(c.width, name="image_proj")(image)
            image = refined = image.reshape(len(image), side, side, c.width)
            if c.sa:
                y = Attention(c.heads, name="self_attn")(image, image)
                refined = layer_norm(image + y, EPS, "self_norm")
        return [Scale(c, name=f"scales_{i}")(masks, image, refined) for i, masks in enumerate(maps)]


def init(config: ResoBlendConfig, key: jax.Array) -> dict:
    """Random parameters."""
    maps = [jnp.zeros((1, 1, 1, channels)) for channels in config.channels]
    return ResoBlend(config).init(key, jnp.zeros((1, 1, config.image_width)), maps)["params"]


def blend(
    config: ResoBlendConfig, params: dict, image_features: jax.Array, maps: Sequence[jax.Array]
) -> list[jax.Array]:
    """Puts what the picture shows into the maps of the colormap (spec gella A4).

    Args:
        config: sizes and switches.
        params: as made by `init`.
        image_features: features of the picture's patches, row by row of a square grid, ``[B, P, image_width]``.
        maps: feature maps of the colormap's backbone, each ``[B, h, w, C]``, C of ``config.channels``, of the same
            dtype.

    Returns:
        As many maps of the same shapes.

    Raises:
        ValueError: P is no square.
    """
    return ResoBlend(config).apply({"params": params}, image_features, maps)
