"""Mask2Former (Cheng et al. 2022, arXiv:2112.01527): pixel decoder and transformer decoder, for any backbone.

config = Mask2FormerConfig.coco_panoptic_swin_l()
prediction, earlier = predict(config, params, maps)          # maps of a backbone at strides 4, 8, 16, 32
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from grounding_jax.models.mask2former.config import Mask2FormerConfig
from grounding_jax.models.mask2former.pixel_decoder import PixelDecoder
from grounding_jax.models.mask2former.transformer_decoder import Prediction, TransformerDecoder

__all__ = ["Mask2FormerConfig", "Prediction", "decode_pixels", "decode_queries", "init", "predict"]


def init(config: Mask2FormerConfig, key: jax.Array) -> dict:
    """Random parameters: ``pixel_decoder``, ``transformer_decoder``."""
    keys = jax.random.split(key)
    maps = [jnp.zeros((1, 8 // 2**i, 8 // 2**i, channels)) for i, channels in enumerate(config.channels)]
    fine, *scales = (jnp.zeros((*x.shape[:3], config.width)) for x in maps)
    return {
        "pixel_decoder": PixelDecoder(config).init(keys[0], maps)["params"],
        "transformer_decoder": TransformerDecoder(config).init(keys[1], fine, scales[::-1])["params"],
    }


def decode_pixels(
    config: Mask2FormerConfig, params: dict, maps: Sequence[jax.Array]
) -> tuple[jax.Array, list[jax.Array]]:
    """The pixel decoder (spec gella A5).

    Args:
        config: sizes.
        params: as made by `init`.
        maps: a backbone's maps at strides 4, 8, 16, 32, each ``[B, h, w, channels]``. The release computes in float32
            here.

    Returns:
        ``(mask_features, scales)``: features of pixels ``[B, h, w, D]`` at stride 4, and three maps ``[B, h, w, D]``
        at strides 32, 16, 8.
    """
    return PixelDecoder(config).apply({"params": params["pixel_decoder"]}, maps)


def decode_queries(
    config: Mask2FormerConfig, params: dict, mask_features: jax.Array, scales: Sequence[jax.Array]
) -> tuple[Prediction, tuple[Prediction, ...]]:
    """The transformer decoder (spec gella A7).

    Args:
        config: sizes.
        params: as made by `init`.
        mask_features: as made by `decode_pixels`.
        scales: as made by `decode_pixels`.

    Returns:
        ``(prediction, earlier)``: that after the last layer, whose ``queries`` are GELLA's E_vc, and the L others for
        auxiliary losses: from the learned queries alone, after the first layer, and so on.
    """
    return TransformerDecoder(config).apply({"params": params["transformer_decoder"]}, mask_features, scales)


def predict(
    config: Mask2FormerConfig, params: dict, maps: Sequence[jax.Array]
) -> tuple[Prediction, tuple[Prediction, ...]]:
    """Both decoders: maps of a backbone as in `decode_pixels` to the predictions of `decode_queries`."""
    return decode_queries(config, params, *decode_pixels(config, params, maps))
