"""How much arithmetic a training of GSVA takes: for the model FLOPs utilisation.

What rematerialisation computes again is left out: utilisation is about useful work. Units are those of
`grounding_jax.planning.flops`.
"""

from __future__ import annotations

from grounding_jax.planning.flops import clip_flops, head_flops, llama_flops, mask_decoder_flops, sam_encoder_flops
from gsva_jax.config import GsvaConfig


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
