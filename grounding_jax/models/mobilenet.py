"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381), the small backbone.

    params = init(config, key)
    maps = pyramid(config, params, images)                       # for detection: four [B, h, w, C]

    params = init(config, key, detection=False)
    last, pooled = encode(config, params, images)                # stand-alone: [B, h, w, C], [B, C]

Published weights follow one of two conventions, of torchvision or of TensorFlow (spec gella A2); they differ in the
padding and the eps of the norms, and weights of the one are wrong under the other.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.layers import LECUN, matmul

EXPANSION = 6  # hidden width of a block over its input's
REPEATS = (1, 2, 3, 4, 3, 3, 1)  # blocks of each group
STRIDES = (1, 2, 2, 2, 1, 2, 1)  # of the first block of each group
TAPS = (1, 2, 4, 6)  # groups that end at strides 4, 8, 16, 32


@dataclasses.dataclass(frozen=True)
class MobileNetConfig:
    """Sizes and convention of a MobileNetV2; the sizes default to those of width 1.0.

    Attributes:
        same_padding: padding of strided convolutions: True is TensorFlow's SAME (an even side: only at the end), False
            one place on both sides.
        eps: epsilon of the batch norms.
        stem: C of the first convolution.
        widths: C of each group of blocks.
        head: C of the last convolution, which only the stand-alone form has.
    """

    same_padding: bool
    eps: float
    stem: int = 32
    widths: tuple[int, ...] = (16, 24, 32, 64, 96, 160, 320)
    head: int = 1280

    @classmethod
    def torchvision(cls, **changes) -> MobileNetConfig:
        """The convention of torchvision's weights."""
        return cls(**{**dict(same_padding=False, eps=1e-5), **changes})

    @classmethod
    def tensorflow(cls, **changes) -> MobileNetConfig:
        """The convention of Google's weights, which Hugging Face has."""
        return cls(**{**dict(same_padding=True, eps=1e-3), **changes})

    @property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """C and stride of every block."""
        groups = zip(self.widths, REPEATS, STRIDES, strict=True)
        return tuple((C, stride if j == 0 else 1) for C, repeats, stride in groups for j in range(repeats))


class FrozenBatchNorm(nn.Module):
    """Batch norm over the last axis by its running statistics, in float32. The statistics get no gradient."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[..., C] -> [..., C]``."""
        ones, zeros, shape = nn.initializers.ones, nn.initializers.zeros, (x.shape[-1],)
        scale, bias = self.param("scale", ones, shape), self.param("bias", zeros, shape)
        mean, var = jax.lax.stop_gradient((self.param("mean", zeros, shape), self.param("var", ones, shape)))
        mean, var = mean.astype(jnp.float32), var.astype(jnp.float32)
        y = (x.astype(jnp.float32) - mean) * (scale * jax.lax.rsqrt(var + self.eps)) + bias
        return y.astype(x.dtype)


class ConvNorm(nn.Module):
    """A convolution without bias, its norm and perhaps ReLU6.

    Attributes:
        config: the convention.
        features: C of the result.
        size: side of the kernel, 1 or 3.
        stride: in both directions.
        depthwise: every channel by itself.
        activate: True if the ReLU6 follows.
    """

    config: MobileNetConfig
    features: int
    size: int
    stride: int = 1
    depthwise: bool = False
    activate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), features]``."""
        C = x.shape[-1]
        if self.size == 1:
            y = matmul(x, self.param("kernel", LECUN, (C, self.features)))
        else:
            # Not nn.Conv, which would put the kernel a level deeper than that of size 1.
            groups = C if self.depthwise else 1
            kernel = self.param("kernel", LECUN, (3, 3, C // groups, self.features))
            y = jax.lax.conv_general_dilated(
                x,
                kernel.astype(x.dtype),
                (self.stride, self.stride),
                "SAME" if self.config.same_padding else ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                feature_group_count=groups,
            )
        y = FrozenBatchNorm(self.config.eps, name="norm")(y)
        return jax.nn.relu6(y) if self.activate else y


class Block(nn.Module):
    """Inverted residual: a wide depthwise convolution between two narrow ends.

    The first block of the network neither expands nor adds its input.
    """

    config: MobileNetConfig
    features: int
    stride: int
    first: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, h, w, C] -> [B, ceil(h / stride), ceil(w / stride), features]``."""
        c, y = self.config, x
        if not self.first:
            y = ConvNorm(c, EXPANSION * x.shape[-1], 1, name="expand")(y)
        y = ConvNorm(c, y.shape[-1], 3, self.stride, depthwise=True, name="depthwise")(y)
        y = ConvNorm(c, self.features, 1, activate=False, name="project")(y)
        same = self.stride == 1 and x.shape[-1] == self.features
        return x + y if same and not self.first else y


class MobileNet(nn.Module):
    """The whole network, in the form for detection or the stand-alone one."""

    config: MobileNetConfig
    detection: bool

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array] | tuple[jax.Array, jax.Array]:
        """See `pyramid` and `encode`."""
        c = self.config
        x = ConvNorm(c, c.stem, 3, stride=2, name="stem")(images)
        outputs = []
        for i, (features, stride) in enumerate(c.blocks):
            x = Block(c, features, stride, first=i == 0, name=f"blocks_{i}")(x)
            outputs.append(x)
        if self.detection:
            return [outputs[sum(REPEATS[: group + 1]) - 1] for group in TAPS]
        x = ConvNorm(c, c.head, 1, name="head")(x)
        return x, x.mean((1, 2))


def init(config: MobileNetConfig, key: jax.Array, detection: bool = True) -> dict:
    """Random parameters for `pyramid`, or for `encode` with ``detection=False``: with the last convolution."""
    return MobileNet(config, detection).init(key, jnp.zeros((1, 32, 32, 3)))["params"]


def pyramid(config: MobileNetConfig, params: dict, images: jax.Array) -> list[jax.Array]:
    """The last map of every size, before any activation.

    Args:
        config: sizes and convention.
        params: as made by `init`.
        images: normalised pictures ``[B, H, W, 3]`` of any size.

    Returns:
        Maps ``[B, h, w, C]`` at strides 4, 8, 16, 32; at width 1.0 they have 24, 32, 96, 320 channels. Their sizes are
        rounded up.
    """
    return MobileNet(config, detection=True).apply({"params": params}, images)


def encode(config: MobileNetConfig, params: dict, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The stand-alone form: ``[B, H, W, 3]`` -> the last map ``[B, h, w, head]`` and its mean ``[B, head]``.

    Parameters are those of ``init(..., detection=False)``.
    """
    return MobileNet(config, detection=False).apply({"params": params}, images)
