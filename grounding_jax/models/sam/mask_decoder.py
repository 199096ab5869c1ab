"""SAM's mask decoder: a two-way transformer between prompt tokens and the image, and one small network a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.layers import (
    LECUN,
    Linear,
    Mlp,
    gelu,
    layer_norm,
    matmul,
    unpatchify,
)
from grounding_jax.models.multihead import MultiHeadAttention
from grounding_jax.models.sam.config import SamConfig

NORM_EPS = 1e-5  # of the transformer's norms, PyTorch's default


class TwoWayBlock(nn.Module):
    """Tokens attend to themselves and to the image, then the image attends to the tokens."""

    config: SamConfig
    first: bool

    @nn.compact
    def __call__(
        self, tokens: jax.Array, image: jax.Array, token_positions: jax.Array, image_positions: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """``tokens [M, T, C], image [M, h * w, C]`` -> the same, updated."""
        c = self.config
        C = c.prompt_width
        self_attn = MultiHeadAttention(C, c.decoder_heads, name="self_attn")
        if self.first:  # no positions and no residual: the tokens are their own positions
            tokens = self_attn(tokens, tokens, tokens)
        else:
            q = tokens + token_positions
            tokens = tokens + self_attn(q, q, tokens)
        tokens = layer_norm(tokens, NORM_EPS, "norm1")
        q, k = tokens + token_positions, image + image_positions
        tokens = tokens + MultiHeadAttention(C // 2, c.decoder_heads, name="cross_token_to_image")(q, k, image)
        tokens = layer_norm(tokens, NORM_EPS, "norm2")
        tokens = tokens + Mlp(c.decoder_hidden, C, "relu", name="mlp")(tokens)
        tokens = layer_norm(tokens, NORM_EPS, "norm3")
        q, k = tokens + token_positions, image + image_positions
        image = image + MultiHeadAttention(C // 2, c.decoder_heads, name="cross_image_to_token")(k, q, tokens)
        return tokens, layer_norm(image, NORM_EPS, "norm4")


class TwoWayTransformer(nn.Module):
    """The blocks, and a last look of the tokens at the image."""

    config: SamConfig

    @nn.compact
    def __call__(self, tokens: jax.Array, image: jax.Array, image_positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """``tokens [M, T, C], image and its positions [M, h * w, C]`` -> the first two, updated."""
        c = self.config
        token_positions = tokens
        for i in range(c.decoder_layers):
            block = TwoWayBlock(c, first=i == 0, name=f"layers_{i}")
            tokens, image = block(tokens, image, token_positions, image_positions)
        q, k = tokens + token_positions, image + image_positions
        tokens = tokens + MultiHeadAttention(c.prompt_width // 2, c.decoder_heads, name="final_attn")(q, k, image)
        return layer_norm(tokens, NORM_EPS, "norm_final"), image


class Upscale(nn.Module):
    """Two 2x2 transposed convolutions with stride 2, written as matrix products."""

    config: SamConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[M, h, w, C] -> [M, 4h, 4w, C / 8]``."""
        C = self.config.prompt_width
        x = UpConv(C // 4, name="conv1")(x)
        x = gelu(layer_norm(x, self.config.eps, "norm"))
        return gelu(UpConv(C // 8, name="conv2")(x))


class UpConv(nn.Module):
    """A 2x2 transposed convolution with stride 2: every cell becomes four, none overlap."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[M, h, w, C] -> [M, 2h, 2w, features]``."""
        kernel = self.param("kernel", LECUN, (x.shape[-1], 4 * self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return unpatchify(matmul(x, kernel), 2) + bias.astype(x.dtype)


class Hypernetworks(nn.Module):
    """For each mask token an MLP of its own (stacked) that makes the weights of its mask."""

    config: SamConfig

    @nn.compact
    def __call__(self, x: jax.Array, used: slice) -> jax.Array:
        """``[M, masks, C] -> [M, masks, C / 8]`` by those of the MLPs that ``used`` selects."""
        c = self.config
        widths = (c.prompt_width, c.prompt_width, c.prompt_width, c.prompt_width // 8)
        for j in range(3):
            shape = (c.num_masks, widths[j], widths[j + 1])
            layer = StackedLinear(shape, name=f"layers_{j}")
            x = layer(x, used)
            x = jax.nn.relu(x) if j < 2 else x
        return x


class StackedLinear(nn.Module):
    """One linear layer a mask."""

    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: jax.Array, used: slice) -> jax.Array:
        """``[M, masks, in] -> [M, masks, out]``."""
        kernel = self.param("kernel", nn.initializers.lecun_normal(batch_axis=(0,)), self.shape)[used]
        bias = self.param("bias", nn.initializers.zeros, (self.shape[0], self.shape[2]))[used]
        return jnp.einsum("MmC,mCD->MmD", x, kernel.astype(x.dtype)) + bias.astype(x.dtype)


class IouHead(nn.Module):
    """Predicts the IoU of every mask from one token."""

    config: SamConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[M, C] -> [M, masks]``."""
        c = self.config
        for j in range(c.iou_layers - 1):
            x = jax.nn.relu(Linear(c.iou_hidden, name=f"layers_{j}")(x))
        return Linear(c.num_masks, name=f"layers_{c.iou_layers - 1}")(x)


class MaskDecoder(nn.Module):
    """Prompts and an image embedding in, mask logits and their predicted quality out."""

    config: SamConfig

    @nn.compact
    def __call__(
        self,
        image: jax.Array,
        positions: jax.Array,
        sparse: jax.Array,
        dense: jax.Array,
        multimask: bool = False,
    ) -> tuple[jax.Array, jax.Array]:
        """Decodes masks.

        Args:
            image: image embedding ``[M, h, w, C]``: that of each mask's own picture.
            positions: positional encoding ``[h, w, C]``.
            sparse: prompt tokens ``[M or 1, tokens, C]``.
            dense: ``[M or 1, h, w, C]``, added to the image embedding.
            multimask: give the three masks for ambiguous prompts instead of the single one.

        Returns:
            ``(logits [M, masks, 4h, 4w], iou [M, masks])`` in the dtype of ``image``, with masks = 1 or 3.
        """
        c = self.config
        M, h, w, C = image.shape
        iou_token = self.param("iou_token", LECUN, (1, C))
        mask_tokens = self.param("mask_tokens", LECUN, (c.num_masks, C))
        tokens = (jnp.concatenate([iou_token, mask_tokens])[None], sparse)
        tokens = [jnp.broadcast_to(part, (M, *part.shape[1:])).astype(image.dtype) for part in tokens]
        tokens = jnp.concatenate(tokens, axis=1)
        image = (image + dense.astype(image.dtype)).reshape(M, h * w, C)
        positions = jnp.broadcast_to(positions.astype(image.dtype).reshape(1, h * w, C), image.shape)
        tokens, image = TwoWayTransformer(c, name="transformer")(tokens, image, positions)
        used = slice(1, None) if multimask else slice(0, 1)
        weights = Hypernetworks(c, name="hypernetworks")(tokens[:, 1 : 1 + c.num_masks][:, used], used)
        pixels = Upscale(c, name="upscale")(image.reshape(M, h, w, C))
        logits = jnp.einsum("MmC,MHWC->MmHW", weights, pixels)
        iou = IouHead(c, name="iou_head")(tokens[:, 0])
        return logits, iou[:, used]
