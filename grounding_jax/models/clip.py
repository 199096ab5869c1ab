"""CLIP's vision tower (Radford et al. 2021, arXiv:2103.00020), the eyes of the language model.

Usable by itself: ``encode(config, params, images)`` gives the hidden states of every layer.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.attention import attention
from grounding_jax.models.layers import ACTIVATIONS, Linear, Mlp, layer_norm, merge_heads, patchify, split_heads


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Sizes of a CLIP vision tower.

    Attributes:
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        width: D.
        hidden: F, width inside the MLPs.
        layers: L.
        heads: N.
        eps: epsilon of the layer norms.
        activation: "quick_gelu" (OpenAI's weights) or "gelu".
    """

    image_size: int
    patch_size: int
    width: int
    hidden: int
    layers: int
    heads: int
    eps: float = 1e-5
    activation: str = "quick_gelu"

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads don't divide the width {self.width}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation is {self.activation!r}, should be {' or '.join(ACTIVATIONS)}")

    @classmethod
    def vit_l14(cls, image_size: int = 224) -> ClipConfig:
        """OpenAI's ViT-L/14, at 224 or 336 pixels."""
        return cls(image_size=image_size, patch_size=14, width=1024, hidden=4096, layers=24, heads=16)

    @property
    def num_patches(self) -> int:
        """P, patches of a picture."""
        return (self.image_size // self.patch_size) ** 2


class Attention(nn.Module):
    """Bidirectional self attention."""

    config: ClipConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, 1 + P, D] -> [B, 1 + P, D]``."""
        c = self.config
        q, k, v = (split_heads(Linear(c.width, name=name)(x), c.heads) for name in "qkv")
        return Linear(c.width, name="o")(merge_heads(attention(q, k, v)))


class Block(nn.Module):
    """Pre-norm transformer block, written to be scanned: the hidden state is carried and returned."""

    config: ClipConfig

    @nn.compact
    def __call__(self, x: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        """``[B, 1 + P, D] -> (x, x)``."""
        c = self.config
        x = x + Attention(c, name="attn")(layer_norm(x, c.eps, "norm1"))
        x = x + Mlp(c.hidden, c.width, c.activation, name="mlp")(layer_norm(x, c.eps, "norm2"))
        return x, x


class VisionTower(nn.Module):
    """The vision transformer with its class token."""

    config: ClipConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Runs the tower.

        Args:
            images: normalised pictures ``[B, H, W, 3]``, H = W = image_size.

        Returns:
            ``(pooled [B, D], hidden_states [L + 1, B, 1 + P, D])``: the normed class token, and the embedding after
            the first norm followed by the output of every block.
        """
        c = self.config
        normal = nn.initializers.normal(0.02)
        x = Linear(c.width, use_bias=False, name="patch_embed")(patchify(images, c.patch_size))
        x = x.reshape(x.shape[0], c.num_patches, c.width)
        class_token = self.param("class_embed", normal, (c.width,)).astype(x.dtype)
        x = jnp.concatenate([jnp.broadcast_to(class_token, (x.shape[0], 1, c.width)), x], axis=1)
        x = x + self.param("pos_embed", normal, (1 + c.num_patches, c.width)).astype(x.dtype)
        embedding = layer_norm(x, c.eps, "pre_norm")
        scanned = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.layers)
        x, states = scanned(c, name="layers")(embedding, None)
        pooled = layer_norm(x[:, 0], c.eps, "post_norm")
        return pooled, jnp.concatenate([embedding[None], states])


def init(config: ClipConfig, key: jax.Array) -> dict:
    """Random parameters."""
    images = jnp.zeros((1, config.image_size, config.image_size, 3))
    return VisionTower(config).init(key, images)["params"]


def encode(config: ClipConfig, params: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`VisionTower` applied to parameters made by `init`; see there for arguments and result."""
    return VisionTower(config).apply({"params": params}, images)


def patch_features(config: ClipConfig, params: dict, images: jax.Array, select_layer: int) -> jax.Array:
    """What LLaVA sees: ``hidden_states[select_layer]`` without the class token, ``[B, H, W, 3] -> [B, P, D]``."""
    return encode(config, params, images)[1][select_layer, :, 1:]
