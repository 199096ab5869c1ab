"""Mask2Former's transformer decoder: queries that look at the maps inside the masks they have predicted so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.layers import Linear, Mlp, layer_norm
from grounding_jax.models.mask2former.config import Mask2FormerConfig
from grounding_jax.models.mask2former.positions import sine_positions
from grounding_jax.models.multihead import MultiHeadAttention

EPS = 1e-5  # of all norms, PyTorch's default


class Prediction(NamedTuple):
    """What the queries say after one of the layers.

    Attributes:
        class_logits: ``[B, Q, C + 1]``; the last class is "no object".
        mask_logits: ``[B, Q, h, w]`` at stride 4.
        queries: ``[B, Q, D]``, the normed states that both come from.
    """

    class_logits: jax.Array
    mask_logits: jax.Array
    queries: jax.Array


class DecoderLayer(nn.Module):
    """Post-norm masked cross attention, self attention and MLP."""

    config: Mask2FormerConfig

    @nn.compact
    def __call__(
        self, x: jax.Array, query_embed: jax.Array, keys: jax.Array, memory: jax.Array, allowed: jax.Array
    ) -> jax.Array:
        """``x [B, Q, D], query_embed [Q, D], keys and memory [B, S, D], allowed bool [B, 1, Q, S] -> x``."""
        c = self.config
        y = MultiHeadAttention(c.width, c.heads, name="cross_attn")(x + query_embed, keys, memory, allowed)
        x = layer_norm(x + y, EPS, "norm1")
        y = MultiHeadAttention(c.width, c.heads, name="self_attn")(x + query_embed, x + query_embed, x)
        x = layer_norm(x + y, EPS, "norm2")
        return layer_norm(x + Mlp(c.decoder_hidden, c.width, "relu", name="mlp")(x), EPS, "norm3")


class Heads(nn.Module):
    """The norm, class layer and mask embedding that the predictions of all layers share."""

    config: Mask2FormerConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """``[B, Q, D]`` -> normed states and mask embeddings ``[B, Q, D]``, class logits ``[B, Q, C + 1]``."""
        c = self.config
        x = y = layer_norm(x, EPS, "norm")
        for i in range(3):
            y = Linear(c.width, name=f"mask_embed_{i}")(y)
            y = jax.nn.relu(y) if i < 2 else y
        return x, y, Linear(c.classes + 1, name="class_embed")(x)


def masks(mask_embed: jax.Array, features: jax.Array) -> jax.Array:
    """``mask_embed [B, Q, D], features [B, h, w, D] -> [B, Q, h, w]``."""
    return jnp.einsum("BQD,BhwD->BQhw", mask_embed, features)


def allowed_places(mask_embed: jax.Array, features: jax.Array) -> jax.Array:
    """Where queries may look: inside the masks predicted so far, everywhere if such a mask is empty.

    Args:
        mask_embed: ``[B, Q, D]``.
        features: ``[B, h, w, D]``, the features of pixels resized to the map that is looked at.

    Returns:
        bool ``[B, 1, Q, h * w]``, the same for all heads. No gradient passes through a comparison.
    """
    logits = masks(mask_embed, features)
    inside = logits.reshape(*logits.shape[:2], -1) >= 0
    return (inside | ~inside.any(-1, keepdims=True))[:, None]


class TransformerDecoder(nn.Module):
    """The queries, the layers, and a prediction before the first and after every one.

    Layers are not scanned: they take turns on maps of different sizes.
    """

    config: Mask2FormerConfig

    @nn.compact
    def __call__(
        self, mask_features: jax.Array, scales: Sequence[jax.Array]
    ) -> tuple[Prediction, tuple[Prediction, ...]]:
        """See `mask2former.decode_queries`."""
        c, (B, _, _, D), dtype = self.config, mask_features.shape, mask_features.dtype
        normal = nn.initializers.normal(1.0)
        query_feat = self.param("query_feat", normal, (c.queries, D)).astype(dtype)
        query_embed = self.param("query_embed", normal, (c.queries, D)).astype(dtype)
        level_embed = self.param("level_embed", normal, (len(scales), D)).astype(dtype)
        memories, keys, features = [], [], []
        for scale, embed in zip(scales, level_embed, strict=True):
            _, h, w, _ = scale.shape
            memories.append(scale.reshape(B, h * w, D) + embed)
            keys.append(memories[-1] + sine_positions(h, w, D).reshape(h * w, D).astype(dtype))
            # Resizing masks is the same as resizing the features they are products with, and that happens once. Without
            # it the masks of all layers would be needed at stride 4 even where only the last ones are asked for.
            features.append(jax.image.resize(mask_features, scale.shape, "linear", antialias=False))
        heads = Heads(c, name="heads")
        x = jnp.broadcast_to(query_feat, (B, c.queries, D))
        predictions = []
        for i in range(c.decoder_layers + 1):
            queries, mask_embed, class_logits = heads(x)
            predictions.append(Prediction(class_logits, masks(mask_embed, mask_features), queries))
            if i < c.decoder_layers:
                level = i % len(scales)
                allowed = allowed_places(mask_embed, features[level])
                layer = DecoderLayer(c, name=f"layers_{i}")
                x = layer(x, query_embed, keys[level], memories[level], allowed)
        return predictions[-1], tuple(predictions[:-1])
