"""Primitives every model file shares: linear layers (with LoRA), norms and patches.

Activations carry the dtype: parameters of any dtype are cast to that of their input, norms are computed in float32.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

LECUN = nn.initializers.lecun_normal()


def matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """``[..., D] @ [D, F] -> [..., F]`` in the dtype of ``x``.

    Leading axes are flattened first: XLA's CPU backend runs the two-dimensional product up to twice as fast as the
    batched one, and accelerators see the same product.
    """
    y = x.reshape(-1, x.shape[-1]) @ kernel.astype(x.dtype)
    return y.reshape(*x.shape[:-1], kernel.shape[-1])


class Linear(nn.Module):
    """``x @ kernel + bias``, plus a low-rank update where ``lora_rank`` is positive (see `lora.py`).

    Attributes:
        features: output width.
        use_bias: True if there is a bias.
        lora_rank: rank R of the update; 0 for none.
        lora_scale: factor alpha / R of the update.
        lora_dropout: share of the update's inputs that are dropped in training.
        kernel_init: initialiser of the kernel.
    """

    features: int
    use_bias: bool = True
    lora_rank: int = 0
    lora_scale: float = 1.0
    lora_dropout: float = 0.0
    kernel_init: nn.initializers.Initializer = LECUN

    @nn.compact
    def __call__(self, x: jax.Array, dropout_keys: jax.Array | None = None) -> jax.Array:
        """``[..., D] -> [..., features]``; with keys ``[B]`` of the rows, inputs of the update are dropped."""
        width = x.shape[-1]
        y = matmul(x, self.param("kernel", self.kernel_init, (width, self.features)))
        if self.lora_rank:
            # PEFT's initialisation: A uniform in +-1/sqrt(D) (Kaiming with a = sqrt 5), B zero.
            uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
            lora_a = self.param("lora_a", uniform, (width, self.lora_rank))
            lora_b = self.param("lora_b", nn.initializers.zeros, (self.lora_rank, self.features))
            kept = x if dropout_keys is None else drop(x, dropout_keys, self.lora_dropout)
            y = y + self.lora_scale * matmul(matmul(kept, lora_a), lora_b)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (self.features,)).astype(y.dtype)
        return y


def drop(x: jax.Array, keys: jax.Array, rate: float) -> jax.Array:
    """Dropout whose mask for a row ``[B, ...]`` depends on the row's key ``[B]`` alone, not on the batch around it."""
    if rate == 0.0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0)


class Mlp(nn.Module):
    """Two linear layers with an activation between them: ``fc2(activation(fc1(x)))``."""

    hidden: int
    features: int
    activation: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., D] -> [..., features]``."""
        x = ACTIVATIONS[self.activation](Linear(self.hidden, name="fc1")(x))
        return Linear(self.features, name="fc2")(x)


def quick_gelu(x: jax.Array) -> jax.Array:
    """OpenAI CLIP's approximation of GELU, ``x * sigmoid(1.702 x)``."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact (erf) GELU."""
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu, "relu": jax.nn.relu}


def layer_norm(x: jax.Array, eps: float, name: str) -> jax.Array:
    """Layer norm over the last axis of ``[..., D]``, in float32. On ``[..., h, w, C]`` this is SAM's LayerNorm2d."""
    # Flax would by default take the variance as E[x^2] - E[x]^2, which cancels where the mean is large.
    return nn.LayerNorm(eps, dtype=x.dtype, use_fast_variance=False, name=name)(x)


def conv3x3(x: jax.Array, features: int, name: str) -> jax.Array:
    """3x3 convolution with padding 1 and no bias: ``[B, h, w, C] -> [B, h, w, features]``."""
    return nn.Conv(features, (3, 3), use_bias=False, dtype=x.dtype, name=name)(x)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, in float32 (LLaMA).

    Not `nn.RMSNorm`, which rounds to the dtype of ``x`` behind the scale: LLaMA rounds before it, which differs in
    bfloat16.
    """

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., D] -> [..., D]``."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + self.eps)
        return y.astype(x.dtype) * scale.astype(x.dtype)


def patchify(images: jax.Array, size: int) -> jax.Array:
    """Cuts ``[B, H, W, C]`` into non-overlapping squares: ``[B, H/size, W/size, size * size * C]``.

    With a matrix product behind it this is a strided convolution, and faster than one.
    """
    B, H, W, C = images.shape
    x = images.reshape(B, H // size, size, W // size, size, C).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, H // size, W // size, size * size * C)


def unpatchify(x: jax.Array, size: int) -> jax.Array:
    """Inverse of `patchify`: ``[B, h, w, size * size * C] -> [B, h * size, w * size, C]``."""
    B, h, w, F = x.shape
    x = x.reshape(B, h, w, size, size, F // (size * size)).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(B, h * size, w * size, F // (size * size))


def split_heads(x: jax.Array, heads: int) -> jax.Array:
    """``[..., N * K] -> [..., N, K]``."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


def merge_heads(x: jax.Array) -> jax.Array:
    """``[..., N, K] -> [..., N * K]``."""
    return x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1])
