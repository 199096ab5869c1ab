"""Segment Anything in the naming of its release (spec gsva b.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.models import sam as sam_model
from grounding_jax.models.sam import SamConfig
from grounding_jax.weights.checkpoint import read_part
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.rules import layer, norm
from grounding_jax.weights.sizes import fitted
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import LazyTensor
from grounding_jax.weights.transforms import (
    CONV,
    CONV_1X1,
    CONV_2X2,
    PATCH,
    SQUEEZE,
    UPCONV_2X2,
)

_ATTENTIONS = {
    "self_attn": "self_attn",
    "cross_attn_token_to_image": "cross_token_to_image",
    "cross_attn_image_to_token": "cross_image_to_token",
}


def load(path: epath.PathLike, dtype: np.dtype | None = None, **sizes: Any) -> tuple[SamConfig, dict]:
    """A published SAM: its sizes, and the parameters for `models.sam`.

    Args:
        path: `sam_vit_{b,l,h}.pth`, or any file or folder with the same names.
        dtype: dtype of the parameters; None: as in the file.
        **sizes: fields of `SamConfig` that win over what the shapes tell.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or no SAM.
    """
    _, tensors = open_layout(path, ("SAM",))
    leaves = table().to_ours(tensors, str(path))
    return read_part(table(), leaves, sam_model.init, config(leaves, **sizes), path, dtype)


def table() -> Table:
    """All of `sam_vit_{b,l,h}.pth` against our `sam` tree."""
    ignored = Table((), ignored=("pixel_mean", "pixel_std"))
    return (
        _image_encoder().prefixed("image_encoder.", "image_encoder/")
        + _prompt_encoder().prefixed("prompt_encoder.", "prompt_encoder/")
        + _mask_decoder().prefixed("mask_decoder.", "mask_decoder/")
        + ignored
    )


def config(leaves: Mapping[str, LazyTensor], **sizes: Any) -> SamConfig:
    """The sizes of a SAM from the shapes of its leaves; `sizes` are fields of `SamConfig` that can't contradict them.

    Heads follow from the width of the relative position tables, windowed and global blocks from their
    lengths. Only the heads of the mask decoder and the eps are not in the weights: 8 and 1e-6, as published.
    """
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    kernel_rows, width = shapes["image_encoder/patch_embed/kernel"]
    patch = math.isqrt(kernel_rows // 3)
    grid = shapes["image_encoder/pos_embed"][0]
    layers = sum(path.endswith("attn/rel_pos_h") for path in shapes)
    tables = [shapes[f"image_encoder/blocks_{i}/attn/rel_pos_h"] for i in range(layers)]
    windows = {(rows + 1) // 2 for rows, _ in tables} - {grid}
    values = dict(
        width=width,
        layers=layers,
        heads=width // tables[0][1],
        image_size=grid * patch,
        patch_size=patch,
        hidden=shapes["image_encoder/blocks_0/mlp/fc1/kernel"][1],
        prompt_width=shapes["prompt_encoder/no_mask"][0],
        mask_channels=shapes["prompt_encoder/mask_downscaling/conv2/bias"][0],
        decoder_layers=sum(path.endswith("cross_token_to_image/q/kernel") for path in shapes),
        decoder_hidden=shapes["mask_decoder/transformer/layers_0/mlp/fc1/kernel"][1],
        num_masks=shapes["mask_decoder/mask_tokens"][0],
        iou_layers=sum(path.startswith("mask_decoder/iou_head/") and path.endswith("kernel") for path in shapes),
        iou_hidden=shapes["mask_decoder/iou_head/layers_0/kernel"][1],
    )
    global_blocks = tuple(i for i, (rows, _) in enumerate(tables) if rows == 2 * grid - 1)
    if windows:
        values |= dict(window=min(windows), global_blocks=global_blocks)
    return fitted(SamConfig, values, {"global_blocks": global_blocks, **sizes})


def _image_encoder() -> Table:
    rules = [
        Rule("pos_embed", "pos_embed", SQUEEZE),
        *layer("patch_embed.proj", "patch_embed", PATCH),
        Rule("neck.0.weight", "neck/conv1/kernel", CONV_1X1),
        *norm("neck.1", "neck/norm1"),
        Rule("neck.2.weight", "neck/conv2/kernel", CONV),
        *norm("neck.3", "neck/norm2"),
        *norm("blocks.{i}.norm1", "blocks_{i}/norm1"),
        *norm("blocks.{i}.norm2", "blocks_{i}/norm2"),
        *layer("blocks.{i}.attn.qkv", "blocks_{i}/attn/qkv"),
        *layer("blocks.{i}.attn.proj", "blocks_{i}/attn/proj"),
        Rule("blocks.{i}.attn.rel_pos_h", "blocks_{i}/attn/rel_pos_h"),
        Rule("blocks.{i}.attn.rel_pos_w", "blocks_{i}/attn/rel_pos_w"),
        *layer("blocks.{i}.mlp.lin1", "blocks_{i}/mlp/fc1"),
        *layer("blocks.{i}.mlp.lin2", "blocks_{i}/mlp/fc2"),
    ]
    return Table(tuple(rules))


def _prompt_encoder() -> Table:
    rules = [
        Rule("pe_layer.positional_encoding_gaussian_matrix", "gaussian"),
        Rule("point_embeddings.{i}.weight", "point_embed", SQUEEZE),
        Rule("not_a_point_embed.weight", "not_a_point", SQUEEZE),
        Rule("no_mask_embed.weight", "no_mask", SQUEEZE),
        *layer("mask_downscaling.0", "mask_downscaling/conv1", CONV_2X2),
        *norm("mask_downscaling.1", "mask_downscaling/norm1"),
        *layer("mask_downscaling.3", "mask_downscaling/conv2", CONV_2X2),
        *norm("mask_downscaling.4", "mask_downscaling/norm2"),
        *layer("mask_downscaling.6", "mask_downscaling/conv3", CONV_1X1),
    ]
    return Table(tuple(rules))


def _mask_decoder() -> Table:
    rules = [
        Rule("iou_token.weight", "iou_token"),
        Rule("mask_tokens.weight", "mask_tokens"),
        *_attention("transformer.final_attn_token_to_image", "transformer/final_attn"),
        *norm("transformer.norm_final_attn", "transformer/norm_final"),
        *layer("transformer.layers.{i}.mlp.lin1", "transformer/layers_{i}/mlp/fc1"),
        *layer("transformer.layers.{i}.mlp.lin2", "transformer/layers_{i}/mlp/fc2"),
        *layer("output_upscaling.0", "upscale/conv1", UPCONV_2X2),
        *norm("output_upscaling.1", "upscale/norm"),
        *layer("output_upscaling.3", "upscale/conv2", UPCONV_2X2),
        *layer("output_hypernetworks_mlps.{m}.layers.{j}", "hypernetworks/layers_{j}"),
        *layer("iou_prediction_head.layers.{j}", "iou_head/layers_{j}"),
    ]
    for torch, ours in _ATTENTIONS.items():
        rules += _attention(f"transformer.layers.{{i}}.{torch}", f"transformer/layers_{{i}}/{ours}")
    for number in (1, 2, 3, 4):
        rules += norm(f"transformer.layers.{{i}}.norm{number}", f"transformer/layers_{{i}}/norm{number}")
    return Table(tuple(rules))


def _attention(torch: str, ours: str) -> list[Rule]:
    names = (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj"))
    return [rule for name, projection in names for rule in layer(f"{torch}.{projection}", f"{ours}/{name}")]
