"""How much arithmetic the architectures take, by counting their matrix products, and what XLA counts.

A product of [m, k] and [k, n] counts 2 m k n, a convolution likewise. Softmax, norms, activations and resizing are left
out, as is usual. Many papers count half of that, a multiplication with its addition as one (MAC), and call it FLOPs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mobilenet import EXPANSION, MobileNetConfig
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.swin import SwinConfig

STRIDES = (4, 8, 16, 32)  # of a backbone's maps
SAMPLE = 5  # multiplications for a channel of a bilinear sample: its four corners, and its weight


def places(side: int) -> list[int]:
    """How many places a backbone's maps of a square picture have, from the finest to the coarsest."""
    return [(-(-side // stride)) ** 2 for stride in STRIDES]


def attention_macs(queries: int, keys: int, width: int, inner: int | None = None) -> int:
    """Multiplications of `MultiHeadAttention`: its four linear layers and its two products.

    Args:
        queries, keys: numbers of tokens.
        width: width of the tokens.
        inner: width of all heads together, that of the tokens unless given.
    """
    inner = inner or width
    return 2 * (queries + keys) * width * inner + 2 * queries * keys * inner


def llama_flops(config: LlamaConfig, tokens: int) -> int:
    """Forward pass of the blocks over one row; attention counts every pair, masked ones included, as it is computed."""
    c, T = config, tokens
    projections = 2 * c.width * (c.heads + c.kv_heads) * c.head_width
    mlp = 3 * c.width * c.hidden
    attention = 2 * T * c.heads * c.head_width
    return 2 * T * c.layers * (projections + mlp + attention)


def head_flops(config: LlamaConfig, tokens: int) -> int:
    """Forward pass of the head over one row."""
    return 2 * tokens * config.width * config.vocab_size


def clip_flops(config: ClipConfig) -> int:
    """Forward pass of the vision tower over one picture."""
    c, T = config, config.num_patches + 1
    block = attention_macs(T, T, c.width) + T * 2 * c.width * c.hidden
    return 2 * (c.num_patches * 3 * c.patch_size**2 * c.width + c.layers * block)


def sam_encoder_flops(config: SamConfig) -> int:
    """Forward pass of SAM's image encoder over one picture, windows padded as they are computed."""
    c, P = config, config.grid**2
    total = P * 3 * c.patch_size**2 * c.width
    for i in range(c.layers):
        windows = 1 if i in c.global_blocks else (-(-c.grid // c.window)) ** 2
        side = c.grid if i in c.global_blocks else c.window
        T = side**2
        positions = T * 2 * side * c.width
        total += windows * (attention_macs(T, T, c.width) + positions) + P * 2 * c.width * c.hidden
    return 2 * (total + P * (c.width * c.prompt_width + 9 * c.prompt_width**2))


def mask_decoder_flops(config: SamConfig) -> int:
    """Forward pass of SAM's mask decoder for one mask with one prompt token."""
    c, C, P = config, config.prompt_width, config.grid**2
    tokens, half = 2 + c.num_masks, C // 2
    cross = attention_macs(tokens, P, C, half)
    block = attention_macs(tokens, tokens, C) + 2 * cross + tokens * 2 * C * c.decoder_hidden
    upscale = P * C * C + 4 * P * (C // 4) * (C // 2) + 16 * P * C // 8
    return 2 * (c.decoder_layers * block + cross + upscale)


def swin_flops(config: SwinConfig, side: int) -> int:
    """Forward pass over one square picture in the form for detection, windows padded as they are computed."""
    c, h, T = config, -(-side // config.patch_size), config.window**2
    total = h**2 * 3 * c.patch_size**2 * c.width
    for i, (C, depth) in enumerate(zip(c.widths, c.depths, strict=True)):
        if i:
            h = -(-h // 2)
            total += h**2 * 2 * C**2
        windows = (-(-h // c.window)) ** 2
        total += depth * (windows * attention_macs(T, T, C) + h**2 * 2 * c.mlp_ratio * C**2)
    return 2 * total


def mobilenet_flops(config: MobileNetConfig, side: int) -> int:
    """Forward pass over one square picture in the form for detection."""
    h, C = -(-side // 2), config.stem
    total = h**2 * 9 * 3 * C
    for i, (features, stride) in enumerate(config.blocks):
        hidden = EXPANSION * C if i else C
        total += h**2 * C * hidden if i else 0
        h, C = -(-h // stride), features
        total += h**2 * hidden * (9 + features)
    return 2 * total


def pixel_decoder_flops(config: Mask2FormerConfig, side: int) -> int:
    """Forward pass of Mask2Former's pixel decoder over the maps of one square picture."""
    c, D, maps = config, config.width, places(side)
    fine, *coarse = maps
    samples = len(coarse) * c.points  # of a head
    attention = 2 * D**2 + 3 * c.heads * samples * D + SAMPLE * samples * D
    encoder = c.encoder_layers * sum(coarse) * (attention + 2 * D * c.encoder_hidden)
    inputs = sum(P * C * D for P, C in zip(maps, c.channels, strict=True))
    return 2 * (inputs + encoder + fine * 10 * D**2)


def transformer_decoder_flops(config: Mask2FormerConfig, side: int, every_layer: bool = False) -> int:
    """Forward pass of Mask2Former's transformer decoder over one square picture.

    Args:
        config: sizes.
        side: side of the picture in pixels.
        every_layer: masks at stride 4 before the first layer and after every one, as training needs them; the release
            makes them for an answer too and resizes them, to know where the queries may look. Otherwise the last
            alone, and those before at the size of the map that is looked at.
    """
    c, D, Q = config, config.width, config.queries
    fine, *coarse = places(side)
    predictions = c.decoder_layers + 1
    total = predictions * Q * (3 * D**2 + D * (c.classes + 1))
    for i in range(c.decoder_layers):
        P = coarse[-1 - i % len(coarse)]
        total += attention_macs(Q, P, D) + attention_macs(Q, Q, D) + Q * 2 * D * c.decoder_hidden
        total += 0 if every_layer else Q * P * D
    return 2 * (total + (predictions if every_layer else 1) * Q * fine * D)


def counted_by_xla(function: Callable, *shapes: Any) -> float:
    """XLA's count of a function before it optimises anything: products, and all that goes over elements.

    XLA counts the body of a loop once, so every `scan` is unrolled first. Nothing is compiled or run, so that full
    sizes take seconds. The program is that of an accelerator: on a CPU our attention has loops of its own.

    Args:
        function: a function of arrays, not jitted.
        shapes: its arguments as `jax.ShapeDtypeStruct`, or trees of those.
    """
    leaves, tree = jax.tree.flatten(shapes)
    traced = jax.make_jaxpr(lambda *leaves: function(*jax.tree.unflatten(tree, leaves)))(*leaves)
    lowered = jax.jit(core.jaxpr_as_fun(_unrolled(traced))).trace(*leaves).lower(lowering_platforms=("tpu",))
    return lowered.cost_analysis()["flops"]


def _unrolled(part: Any) -> Any:
    """A jaxpr whose scans, those inside others too, are as many copies of their bodies; other values as they are."""
    if isinstance(part, core.ClosedJaxpr) and part.jaxpr is not part:  # from jax 0.12 on, the two are one
        return part.replace(jaxpr=_unrolled(part.jaxpr))
    if type(part) is tuple:  # of branches; named tuples are something else
        return tuple(map(_unrolled, part))
    if not isinstance(part, core.Jaxpr):
        return part
    equations = []
    for equation in part.eqns:
        params = {name: _unrolled(value) for name, value in equation.params.items()}
        if equation.primitive.name == "scan":
            params["unroll"] = params["length"]
        equations.append(equation.replace(params=params))
    return part.replace(eqns=equations)
