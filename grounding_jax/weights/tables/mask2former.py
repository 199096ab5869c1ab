"""Mask2Former in the naming of its release (detectron2) and of Hugging Face (spec gella g).

The two decoders by themselves, and with a Swin as the published models have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.models import mask2former as mask2former_model
from grounding_jax.models import swin as swin_model
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import expected_shapes, part, prefixed
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.rules import layer, norm
from grounding_jax.weights.sizes import about, fitted, read_fields
from grounding_jax.weights.table import Rule, Table, packed
from grounding_jax.weights.tables import swin
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.transforms import CONV, CONV_1X1, LINEAR

LAYOUTS = ("Mask2Former", "Mask2Former-hf")
_LEVELS = 3
_LOSS = Table((), ignored=("criterion.empty_weight",))  # weights of the classes in the loss, a buffer


def load(path: epath.PathLike, dtype: np.dtype | None = None, **sizes: Any) -> tuple[Mask2FormerConfig, dict]:
    """The decoders of a published Mask2Former: their sizes, and the parameters for `models.mask2former`.

    Its Swin is what `weights.swin.load` gives for the same path.

    Args:
        path: a file of detectron2, or a folder in Hugging Face's layout, whose config.json tells the heads.
        dtype: dtype of the parameters; None: as in the file.
        **sizes: fields of `Mask2FormerConfig` that win.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or no Mask2Former with a Swin.
    """
    layout, tensors = open_layout(path, LAYOUTS)
    _, decoders, leaves = read(layout, tensors, path, **sizes)
    inside = {name: leaf for name, leaf in leaves.items() if not name.startswith("backbone/")}
    return decoders, folder.to_params(inside, dtype)


def original() -> Table:
    """The release's names of the decoders against our `mask2former` tree; for import also those of older files."""
    pixels, queries = _original_pixel_decoder(), _original_transformer_decoder()
    pixels = pixels.prefixed("pixel_decoder.", "pixel_decoder/")
    # Before version 2 there was no pixel_decoder in the names.
    pixels = pixels.accepting(lambda name: name.removeprefix("pixel_decoder."))
    heads = pixels + queries.prefixed("predictor.", "transformer_decoder/")
    return heads.prefixed("sem_seg_head.", "") + _LOSS


def transformers() -> Table:
    """Hugging Face's names of the decoders against our `mask2former` tree."""
    return (
        _transformers_pixel_decoder().prefixed("model.pixel_level_module.decoder.", "pixel_decoder/")
        + _transformers_transformer_decoder().prefixed("model.transformer_module.", "transformer_decoder/")
        + Table(tuple(layer("class_predictor", "transformer_decoder/heads/class_embed")))
        + _LOSS
    )


def original_with_swin(decoders: str = "") -> Table:
    """All of `model_final_*.pkl` and `.pth`: the decoders, behind a prefix, and our `swin` tree under `backbone`."""
    return swin.original("backbone.").prefixed("", "backbone/") + original().prefixed("", decoders)


def transformers_with_swin(decoders: str = "") -> Table:
    """All of `Mask2FormerForUniversalSegmentation`: the decoders and the Swin, as in `original_with_swin`."""
    inside = swin.transformers("model.pixel_level_module.encoder.")
    return inside.prefixed("", "backbone/") + transformers().prefixed("", decoders)


def read(
    layout: str, tensors: Mapping[str, LazyTensor], path: epath.PathLike, **sizes: Any
) -> tuple[SwinConfig, Mask2FormerConfig, dict[str, LazyTensor]]:
    """A published Mask2Former with a Swin: the sizes of both, and leaves as `original_with_swin` has them.

    Args:
        layout: "Mask2Former" or "Mask2Former-hf", see `layouts.open_layout`.
        tensors: tensors of the checkpoint.
        path: file or folder; a config.json in it tells the heads.
        **sizes: fields of `Mask2FormerConfig` that win.

    Raises:
        CheckpointError: names are missing or unknown, as those of a CropFormer, or shapes contradict each other or
            `sizes`.
    """
    if any(".make_3d." in key for key in tensors):
        raise CheckpointError(f"{path}: is a CropFormer, which looks at crops, too; use a Mask2Former of EntitySeg")
    table = original_with_swin() if layout == "Mask2Former" else transformers_with_swin()
    leaves = table.to_ours(tensors, str(path))
    names = {"heads": "num_attention_heads"}
    sizes = read_fields(folder.read_public(path), names, Mask2FormerConfig, str(path)) | sizes
    with about(path):
        backbone, decoders = swin.config(part(leaves, "backbone/")), config(leaves, **sizes)
    inside = prefixed("backbone/", expected_shapes(swin_model.init, backbone))
    table.check_shapes(leaves, inside | expected_shapes(mask2former_model.init, decoders), str(path))
    return backbone, decoders, leaves


def config(leaves: Mapping[str, LazyTensor], **sizes: Any) -> Mask2FormerConfig:
    """The sizes of the decoders from the shapes of their leaves; `sizes` are other fields of `Mask2FormerConfig`.

    Only the heads are not in the weights: 8, as published.
    """
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    heads = sizes.get("heads", Mask2FormerConfig.heads)
    layers, _, hidden = shapes["pixel_decoder/layers/mlp/fc1/kernel"]
    queries, width = shapes["transformer_decoder/query_feat"]
    coarse = tuple(shapes[f"pixel_decoder/input_proj_{i}/kernel"][0] for i in reversed(range(_LEVELS)))
    values = dict(
        classes=shapes["transformer_decoder/heads/class_embed/bias"][0] - 1,
        channels=(shapes["pixel_decoder/lateral/kernel"][0], *coarse),
        queries=queries,
        width=width,
        points=shapes["pixel_decoder/layers/attn/weights/bias"][1] // (heads * _LEVELS),
        encoder_layers=layers,
        encoder_hidden=hidden,
        decoder_layers=sum(path.endswith("cross_attn/q/kernel") for path in shapes),
        decoder_hidden=shapes["transformer_decoder/layers_0/mlp/fc1/kernel"][1],
    )
    return fitted(Mask2FormerConfig, values, {"heads": heads, **sizes})


def public(config: Mask2FormerConfig, backbone: SwinConfig, dtype: np.dtype) -> dict[str, Any]:
    """The config.json of Hugging Face's `Mask2FormerForUniversalSegmentation` with a Swin."""
    return {
        "architectures": ["Mask2FormerForUniversalSegmentation"],
        "model_type": "mask2former",
        "backbone_config": swin.public(backbone),
        "num_queries": config.queries,
        "hidden_dim": config.width,
        "feature_size": config.width,
        "mask_feature_size": config.width,
        "num_attention_heads": config.heads,
        "encoder_layers": config.encoder_layers,
        "encoder_feedforward_dim": config.encoder_hidden,
        "decoder_layers": config.decoder_layers + 1,  # it counts predictions
        "dim_feedforward": config.decoder_hidden,
        "id2label": {str(i): "entity" if config.classes == 1 else f"class {i}" for i in range(config.classes)},
        "torch_dtype": str(dtype),
    }


def _original_pixel_decoder() -> Table:
    encoder = "transformer.encoder.layers.{i}"
    rules = [
        *layer("input_proj.{l}.0", "input_proj_{l}", CONV_1X1),
        *norm("input_proj.{l}.1", "input_norm_{l}"),
        Rule("transformer.level_embed", "level_embed"),
        *_deformable(f"{encoder}.self_attn", "layers/attn"),
        *norm(f"{encoder}.norm1", "layers/norm1"),
        *layer(f"{encoder}.linear1", "layers/mlp/fc1"),
        *layer(f"{encoder}.linear2", "layers/mlp/fc2"),
        *norm(f"{encoder}.norm2", "layers/norm2"),
        Rule("adapter_1.weight", "lateral/kernel", CONV_1X1),
        *norm("adapter_1.norm", "lateral_norm"),
        Rule("layer_1.weight", "fine_conv/kernel", CONV),
        *norm("layer_1.norm", "fine_norm"),
        *layer("mask_features", "mask_features", CONV_1X1),
    ]
    return Table(tuple(rules))


def _transformers_pixel_decoder() -> Table:
    encoder = "encoder.layers.{i}"
    rules = [
        *layer("input_projections.{l}.0", "input_proj_{l}", CONV_1X1),
        *norm("input_projections.{l}.1", "input_norm_{l}"),
        Rule("level_embed", "level_embed"),
        *_deformable(f"{encoder}.self_attn", "layers/attn"),
        *norm(f"{encoder}.self_attn_layer_norm", "layers/norm1"),
        *layer(f"{encoder}.fc1", "layers/mlp/fc1"),
        *layer(f"{encoder}.fc2", "layers/mlp/fc2"),
        *norm(f"{encoder}.final_layer_norm", "layers/norm2"),
        Rule("adapter_1.0.weight", "lateral/kernel", CONV_1X1),
        *norm("adapter_1.1", "lateral_norm"),
        Rule("layer_1.0.weight", "fine_conv/kernel", CONV),
        *norm("layer_1.1", "fine_norm"),
        *layer("mask_projection", "mask_features", CONV_1X1),
    ]
    return Table(tuple(rules))


def _original_transformer_decoder() -> Table:
    cross, own, ffn = (f"transformer_{kind}_layers.{{i}}" for kind in ("cross_attention", "self_attention", "ffn"))
    rules = [
        Rule("query_feat.weight", "query_feat", aliases=("static_query.weight",)),
        Rule("query_embed.weight", "query_embed"),
        Rule("level_embed.weight", "level_embed"),
        *_packed_attention(f"{cross}.multihead_attn", "layers_{i}/cross_attn"),
        *norm(f"{cross}.norm", "layers_{i}/norm1"),
        *_packed_attention(f"{own}.self_attn", "layers_{i}/self_attn"),
        *norm(f"{own}.norm", "layers_{i}/norm2"),
        *layer(f"{ffn}.linear1", "layers_{i}/mlp/fc1"),
        *layer(f"{ffn}.linear2", "layers_{i}/mlp/fc2"),
        *norm(f"{ffn}.norm", "layers_{i}/norm3"),
        *norm("decoder_norm", "heads/norm"),
        *layer("mask_embed.layers.{k}", "heads/mask_embed_{k}"),
        *layer("class_embed", "heads/class_embed"),
    ]
    return Table(tuple(rules))


def _transformers_transformer_decoder() -> Table:
    torch = "decoder.layers.{i}"
    rules = [
        Rule("queries_features.weight", "query_feat"),
        Rule("queries_embedder.weight", "query_embed"),
        Rule("level_embed.weight", "level_embed"),
        *_packed_attention(f"{torch}.cross_attn", "layers_{i}/cross_attn"),
        *norm(f"{torch}.cross_attn_layer_norm", "layers_{i}/norm1"),
        *layer(f"{torch}.self_attn.out_proj", "layers_{i}/self_attn/o"),
        *norm(f"{torch}.self_attn_layer_norm", "layers_{i}/norm2"),
        *layer(f"{torch}.fc1", "layers_{i}/mlp/fc1"),
        *layer(f"{torch}.fc2", "layers_{i}/mlp/fc2"),
        *norm(f"{torch}.final_layer_norm", "layers_{i}/norm3"),
        *norm("decoder.layernorm", "heads/norm"),
        *layer("decoder.mask_predictor.mask_embedder.{k}.0", "heads/mask_embed_{k}"),
    ]
    for name in "qkv":
        rules += layer(f"{torch}.self_attn.{name}_proj", f"layers_{{i}}/self_attn/{name}")
    return Table(tuple(rules))


def _deformable(torch: str, ours: str) -> list[Rule]:
    return [
        Rule(f"{torch}.sampling_offsets.weight", f"{ours}/offsets/kernel", LINEAR),
        Rule(f"{torch}.sampling_offsets.bias", f"{ours}/offset_bias"),
        *layer(f"{torch}.attention_weights", f"{ours}/weights"),
        *layer(f"{torch}.value_proj", f"{ours}/values"),
        *layer(f"{torch}.output_proj", f"{ours}/out"),
    ]


def _packed_attention(torch: str, ours: str) -> list[Rule]:
    """torch.nn.MultiheadAttention: one matrix for queries, keys and values."""
    kernels, biases = ([f"{ours}/{name}/{leaf}" for name in "qkv"] for leaf in ("kernel", "bias"))
    return [
        *packed(f"{torch}.in_proj_weight", kernels, LINEAR),
        *packed(f"{torch}.in_proj_bias", biases),
        *layer(f"{torch}.out_proj", f"{ours}/o"),
    ]
