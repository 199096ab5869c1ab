"""From a picture and what is said about it to the arrays of one training example."""

from __future__ import annotations

import numpy as np

from grounding_jax.data.picture_resize import clip_crop, resized_size, sam_input
from grounding_jax.language.rows import Row, encode_conversation, pack_row
from grounding_jax.language.tokenizer import Tokenizer
from gsva_jax.config import GsvaConfig
from gsva_jax.prompts import TEMPLATES, Round


def picture_arrays(config: GsvaConfig, image: np.ndarray, features: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A picture as both towers take it.

    Args:
        config: sizes.
        image: uint8 ``[H, W, 3]``.
        features: output of SAM's encoder ``[h, w, C]``, where it is known; the picture is then not rendered for it.

    Returns:
        ``sam_images`` uint8 ``[S, S, 3]`` (padded), or ``image_features`` in its place; ``resized`` int32 ``[2]``,
        ``clip_images`` uint8 ``[h, w, 3]`` and ``original`` int32 ``[2]``, the picture's height and width.
    """
    side = config.sam.image_size
    sam = {"sam_images": sam_input(image, side)[0]} if features is None else {"image_features": features}
    return {
        **sam,
        "resized": np.array(resized_size(image.shape[:2], side), np.int32),
        "clip_images": clip_crop(image, config.clip.image_size),
        "original": np.array(image.shape[:2], np.int32),
    }


def conversation_row(
    config: GsvaConfig, tokenizer: Tokenizer, conversations: list[list[Round]], length: int, max_targets: int
) -> Row:
    """The conversations about one picture as one padded row; see `rows.pack_row`."""
    template = TEMPLATES[config.template]
    texts = [template.conversation(rounds) for rounds in conversations]
    return pack_row(
        tokenizer,
        [encode_conversation(tokenizer, text, template.separator) for text in texts],
        num_patches=config.clip.num_patches,
        length=length,
        max_targets=max_targets,
        truncate=min(length, config.model_max_length),
    )


def canvas_masks(masks: np.ndarray, canvas: int, max_targets: int) -> np.ndarray:
    """Masks in the corner of a fixed canvas, bit-packed: bool ``[M, H, W] -> uint8 [max_targets, canvas, canvas / 8]``.

    Raises:
        ValueError: the canvas is no multiple of 8, or smaller than the masks.
    """
    if canvas % 8 or canvas < max(masks.shape[1:]):
        raise ValueError(
            f"masks of {masks.shape[1:]} need a canvas that is no smaller and a multiple of 8, not {canvas}"
        )
    packed = np.zeros((max_targets, canvas, canvas // 8), np.uint8)
    M, H, W = masks.shape
    rows = np.ascontiguousarray(masks)  # COCO's decoder gives columns, which are packed several times more slowly
    packed[:M, :H, : -(-W // 8)] = np.packbits(rows, axis=-1)
    return packed
