"""Segment Anything (Kirillov et al. 2023, arXiv:2304.02643): image encoder, prompt encoder, mask decoder.

Usable by itself:

    config = SamConfig.vit_h()
    embedding, _ = encode_image(config, params, images)          # [B, h, w, C]
    logits, iou = predict_masks(config, params, embedding, boxes=boxes, multimask=True)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from grounding_jax.models.sam.config import SamConfig
from grounding_jax.models.sam.image_encoder import ImageEncoder, resize_positions
from grounding_jax.models.sam.mask_decoder import MaskDecoder
from grounding_jax.models.sam.prompt_encoder import PromptEncoder

__all__ = ["SamConfig", "encode_image", "init", "predict_masks", "resize_positions"]


def init(config: SamConfig, key: jax.Array) -> dict:
    """Random parameters: ``image_encoder``, ``prompt_encoder``, ``mask_decoder``."""
    keys = jax.random.split(key, 3)
    side, grid, C = config.image_size, config.grid, config.prompt_width
    images, embedding, tokens = jnp.zeros((1, side, side, 3)), jnp.zeros((1, grid, grid, C)), jnp.zeros((1, 1, C))
    return {
        "image_encoder": ImageEncoder(config).init(keys[0], images)["params"],
        "prompt_encoder": PromptEncoder(config).init(keys[1])["params"],
        "mask_decoder": MaskDecoder(config).init(keys[2], embedding, embedding[0], tokens, embedding)["params"],
    }


def encode_image(config: SamConfig, params: dict, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Image embeddings ``[B, h, w, C]`` of normalised pictures ``[B, H, W, 3]``, and the outputs of the blocks."""
    return ImageEncoder(config).apply({"params": params["image_encoder"]}, images)


def predict_masks(
    config: SamConfig, params: dict, embedding: jax.Array, *, multimask: bool = False, **prompts: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Masks for prompts.

    Args:
        config: sizes.
        params: as made by `init`; the image encoder is not needed.
        embedding: ``[M, h, w, C]``, the image embedding of each prompt's picture.
        multimask: three masks for ambiguous prompts instead of one.
        **prompts: ``points`` with ``labels``, ``boxes``, ``masks``, ``text``: see `PromptEncoder`.

    Returns:
        ``(logits [M, masks, 4h, 4w], iou [M, masks])``.
    """
    encoder = PromptEncoder(config)
    sparse, dense, positions = encoder.apply({"params": params["prompt_encoder"]}, **prompts)
    decoder = MaskDecoder(config)
    return decoder.apply({"params": params["mask_decoder"]}, embedding, positions, sparse, dense, multimask)
