"""GELLA: a language model names the nouns of a picture, a mask branch describes its entities, dot products pair them.

Pure functions over plain nested dicts of parameters: ``llama``, ``clip``, ``projector``, ``backbone``, ``blend``,
``mask2former``, ``association``. The two branches share CLIP's features and meet in the association only: the language
model never sees the masks, and the masks never see the text (spec gella 0).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gella_jax import association, resoblend
from gella_jax.colormap import normalize_colormap
from gella_jax.config import GellaConfig
from grounding_jax.models import clip, llama, llava, mask2former, mobilenet, swin
from grounding_jax.models.mask2former import Prediction
from grounding_jax.models.normalize import normalize_clip
from grounding_jax.models.swin import SwinConfig


class EntityPredictions(NamedTuple):
    """What the mask branch says of a colormap.

    Attributes:
        last: queries, classes ("entity", "none") and mask logits after the last layer of the decoder.
        earlier: after the layers before, for auxiliary losses.
    """

    last: Prediction
    earlier: tuple[Prediction, ...]


def init(config: GellaConfig, key: jax.Array) -> dict:
    """Random parameters of the whole model, float32; without ResoBlend, of the mask branch alone."""
    keys = jax.random.split(key, 7)
    backbone = swin if isinstance(config.backbone, SwinConfig) else mobilenet
    params = {
        "backbone": backbone.init(config.backbone, keys[3]),
        "mask2former": mask2former.init(config.mask2former, keys[5]),
    }
    if config.blend is None:
        return params
    patches = jnp.zeros((1, config.clip.width))
    return {
        "llama": llama.init(config.llama, keys[0]),
        "clip": clip.init(config.clip, keys[1]),
        "projector": llava.projector(config.projector, config.llama.width).init(keys[2], patches)["params"],
        **params,
        "blend": resoblend.init(config.blend, keys[4]),
        "association": association.init(config.association, keys[6]),
    }


def encode_image(config: GellaConfig, params: dict, images: jax.Array, resized: jax.Array, dtype) -> jax.Array:
    """CLIP's features of pictures, Z_v.

    Args:
        config: sizes.
        params: the whole tree.
        images: uint8 ``[B, H, W, 3]``, padded.
        resized: int32 ``[B, 2]``, what a picture takes up of it.
        dtype: dtype of the computation.

    Returns:
        ``[B, P, C]``.
    """
    pixels = normalize_clip(images, resized).astype(dtype)
    return clip.patch_features(config.clip, params["clip"], pixels, config.vision_layer)


def project(config: GellaConfig, params: dict, features: jax.Array) -> jax.Array:
    """Z_v as the language model takes it: ``[B, P, C] -> [B, P, D]``."""
    module = llava.projector(config.projector, config.llama.width)
    return module.apply({"params": params["projector"]}, features)


def segment(
    config: GellaConfig,
    params: dict,
    features: jax.Array | None,
    colormaps: jax.Array,
    dtype,
    drop_path_keys: jax.Array | None = None,
) -> EntityPredictions:
    """The mask branch: blends a colormap with the picture and decodes entities (spec gella A2, A4 - A7).

    Args:
        config: sizes.
        params: the whole tree.
        features: Z_v, ``[B, P, C]``; not looked at by a model without ResoBlend.
        colormaps: uint8 ``[B, S, S, 3]`` from `colormap.paint`.
        dtype: dtype of the computation.
        drop_path_keys: random keys ``[B]``, with which a Swin drops branches in training.
    """
    pixels = normalize_colormap(colormaps).astype(dtype)
    if isinstance(config.backbone, SwinConfig):
        maps = swin.pyramid(config.backbone, params["backbone"], pixels, drop_path_keys)
    else:
        maps = mobilenet.pyramid(config.backbone, params["backbone"], pixels)
    if config.blend is not None:
        maps = resoblend.blend(config.blend, params["blend"], features, maps)
    return EntityPredictions(*mask2former.predict(config.mask2former, params["mask2former"], maps))


def noun_states(config: GellaConfig, hidden: jax.Array, seg_positions: jax.Array) -> jax.Array:
    """E_vl, the states that stand for nouns (spec gella A9).

    Args:
        config: says which.
        hidden: hidden states of the language model, ``[B, T, D]``.
        seg_positions: int32 ``[B, M]``, the slots that predict [SEG]; those below 0 read slot 0.

    Returns:
        ``[B, M, D]``.
    """
    slots = seg_positions + (config.seg_state == "at")
    slots = jnp.clip(jnp.where(seg_positions < 0, 0, slots), 0, hidden.shape[1] - 1)
    return jnp.take_along_axis(hidden, slots[..., None], axis=1)


def associate(config: GellaConfig, params: dict, nouns: jax.Array, queries: jax.Array) -> jax.Array:
    """How much each noun means each query: ``[B, M, D], [B, Q, C] -> float32 [B, M, Q]``, logits."""
    return association.associate(config.association, params["association"], nouns, queries)


def forward(
    config: GellaConfig,
    params: dict,
    batch: dict[str, jax.Array],
    dtype=jnp.float32,
    dropout_keys: jax.Array | None = None,
    drop_path_keys: jax.Array | None = None,
) -> dict:
    """The training forward pass (spec gella 0).

    Args:
        config: sizes.
        params: the whole tree.
        batch: the row arrays ``ids, positions, branch`` int32 ``[B, T]`` and ``seg_positions`` ``[B, M]``, and the
            pictures ``clip_images`` uint8 ``[B, H, W, 3]``, ``clip_resized`` int32 ``[B, 2]`` and ``colormaps`` uint8
            ``[B, S, S, 3]``. A model without ResoBlend looks at the colormaps alone.
        dtype: dtype of the computation.
        dropout_keys: see `llama.Decoder`.
        drop_path_keys: see `segment`.

    Returns:
        ``entities``; and of a model with ResoBlend ``logits`` float32 ``[B, T, V]``, ``hidden`` ``[B, T, D]`` and
        ``association`` float32 ``[B, M, Q]``.
    """
    if config.blend is None:
        return {"entities": segment(config, params, None, batch["colormaps"], dtype, drop_path_keys)}
    features = encode_image(config, params, batch["clip_images"], batch["clip_resized"], dtype)
    row = batch["ids"], batch["positions"], batch["branch"]
    patches = project(config, params, features)
    hidden, _ = llava.decode(config.llama, params["llama"], *row, patches, dropout_keys=dropout_keys)
    entities = segment(config, params, features, batch["colormaps"], dtype, drop_path_keys)
    nouns = noun_states(config, hidden, batch["seg_positions"])
    return {
        "entities": entities,
        "logits": llama.logits(config.llama, params["llama"], hidden),
        "hidden": hidden,
        "association": associate(config, params, nouns, entities.last.queries),
    }
