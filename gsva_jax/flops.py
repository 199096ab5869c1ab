"""How much arithmetic GSVA takes, by counting the matrix products: for the model FLOPs utilisation of a training.

A product of [m, k] and [k, n] counts 2 m k n. Softmax, norms and activations are left out, as is usual, and so is what
rematerialisation computes again: utilisation is about useful work.
"""

from __future__ import annotations

from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.sam import SamConfig
from gsva_jax.config import GsvaConfig


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
    block = 4 * c.width**2 + 2 * c.width * c.hidden + 2 * T * c.width
    return 2 * (c.num_patches * 3 * c.patch_size**2 * c.width + T * c.layers * block)


def sam_encoder_flops(config: SamConfig) -> int:
    """Forward pass of SAM's image encoder over one picture, windows padded as they are computed."""
    c, P = config, config.grid**2
    total = P * 3 * c.patch_size**2 * c.width
    for i in range(c.layers):
        windows = 1 if i in c.global_blocks else (-(-c.grid // c.window)) ** 2
        side = c.grid if i in c.global_blocks else c.window
        T = windows * side**2
        attention = 4 * c.width**2 + 2 * side**2 * c.width + 2 * side * c.width  # the last: relative positions
        total += T * attention + P * 2 * c.width * c.hidden
    return 2 * (total + P * (c.width * c.prompt_width + 9 * c.prompt_width**2))


def mask_decoder_flops(config: SamConfig) -> int:
    """Forward pass of the mask decoder for one mask with one prompt token."""
    c, C, P = config, config.prompt_width, config.grid**2
    tokens, half = 2 + c.num_masks, C // 2

    def attention(queries: int, keys: int, width: int) -> int:
        return 2 * queries * C * width + 2 * keys * C * width + 2 * queries * keys * width

    cross = attention(tokens, P, half)
    block = attention(tokens, tokens, C) + cross + attention(P, tokens, half) + tokens * 2 * C * c.decoder_hidden
    upscale = P * C * C + 4 * P * (C // 4) * (C // 2) + 16 * P * C // 8
    return 2 * (c.decoder_layers * block + cross + upscale)


def training_flops(config: GsvaConfig, tokens: int, masks: int, cached_features: bool = False) -> int:
    """One example of a training as in the paper: the towers and SAM's encoder are frozen, the language model has LoRA.

    Forward of everything; gradients of the inputs through the frozen blocks of the language model, which the embedding
    needs; gradients of inputs and weights of the head and the mask decoder, which are trained. LoRA itself is a
    thousandth and left out.

    Args:
        config: sizes.
        tokens: T, slots of a row.
        masks: targets of the example.
        cached_features: SAM's features come from a file.
    """
    llama, head, decoder = llama_flops(config.llama, tokens), head_flops(config.llama, tokens), masks
    decoder *= mask_decoder_flops(config.sam)
    encoder = 0 if cached_features else sam_encoder_flops(config.sam)
    return clip_flops(config.clip) + encoder + 2 * llama + 3 * head + 3 * decoder
