"""Swin in the naming of its releases and of Hugging Face (spec gella g).

Both namings exist with the output norms of detection and with the one norm of the stand-alone model (`models.swin`),
and behind several prefixes: a table takes the prefix of its torch names, so that files go out as they came in. The
leaves of a stand-alone model without its norm, and fresh norms, are where the training of a detector starts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.models import swin as swin_model
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights.checkpoint import read_part
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.rules import layer, norm, packed_layers
from grounding_jax.weights.sizes import fitted
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import LazyTensor
from grounding_jax.weights.transforms import LINEAR, PATCH

LAYOUTS = ("Swin", "Swin-hf")
# Where a Mask2Former has its Swin.
_INSIDE = {"Mask2Former": "backbone.", "Mask2Former-hf": "model.pixel_level_module.encoder."}
_BUFFERS = ("*.relative_position_index", "*.attn_mask")


def load(path: epath.PathLike, dtype: np.dtype | None = None) -> tuple[SwinConfig, dict]:
    """A published Swin, by itself or inside a Mask2Former: its sizes, and the parameters for `models.swin`.

    Those are for `swin.pyramid` where the file has a norm for every stage, as detectors do, and for `swin.encode` where
    it has the one at the end.

    Args:
        path: a file of the release or of detectron2, or a folder in Hugging Face's layout.
        dtype: dtype of the parameters; None: as in the file.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or no Swin.
    """
    layout, tensors = open_layout(path, (*LAYOUTS, *_INSIDE))
    if layout in _INSIDE:
        tensors = {key: tensor for key, tensor in tensors.items() if key.startswith(_INSIDE[layout])}
    names, leaves = read(layout, tensors, path)
    init = functools.partial(swin_model.init, detection="norm0/scale" in leaves)
    return read_part(names, leaves, init, config(leaves), path, dtype)


def read(layout: str, tensors: Mapping[str, LazyTensor], path: epath.PathLike) -> tuple[Table, dict[str, LazyTensor]]:
    """The leaves of a published Swin and the table that they came by.

    Args:
        layout: see `layouts.open_layout`.
        tensors: tensors of the Swin.
        path: names the file in errors.
    """
    of_hub = layout.endswith("-hf")
    prefix = _INSIDE.get(layout) or ("swin." if any(key.startswith("swin.") for key in tensors) else "")
    norms = "hidden_states_norms." if of_hub else "norm0."
    detection = any(key.startswith(prefix + norms) for key in tensors)
    table = (transformers if of_hub else original)(prefix, detection=detection)
    return table, table.to_ours(tensors, str(path))


def original(prefix: str = "", *, detection: bool = True, stages: int = 4) -> Table:
    """The names of the releases against our `swin` tree.

    Args:
        prefix: prefix of the torch names: "backbone." in Mask2Former's files; none in files of a backbone alone.
        detection: a norm for every stage (detectron2) or one at the end (`swin_tiny_patch4_window7_224.pth`).
        stages: number of stages.
    """
    rules = [*layer("patch_embed.proj", "patch_embed", PATCH), *norm("patch_embed.norm", "patch_norm")]
    for i in range(stages):
        torch, ours = f"layers.{i}.blocks.{{j}}", f"stages_{i}/blocks"
        rules += [
            *norm(f"{torch}.norm1", f"{ours}/norm1"),
            *norm(f"{torch}.norm2", f"{ours}/norm2"),
            *packed_layers(f"{torch}.attn.qkv", [f"{ours}/attn/{name}" for name in "qkv"]),
            *layer(f"{torch}.attn.proj", f"{ours}/attn/o"),
            Rule(f"{torch}.attn.relative_position_bias_table", f"{ours}/attn/relative_bias"),
            *layer(f"{torch}.mlp.fc1", f"{ours}/mlp/fc1"),
            *layer(f"{torch}.mlp.fc2", f"{ours}/mlp/fc2"),
        ]
    rules += _merging("layers", stages)
    if detection:
        rules += [rule for i in range(stages) for rule in norm(f"norm{i}", f"norm{i}")]
        return Table(tuple(rules), ignored=_BUFFERS).prefixed(prefix, "")
    rules += norm("norm", "norm")
    return Table(tuple(rules), ignored=(*_BUFFERS, "head.*")).prefixed(prefix, "")


def transformers(prefix: str = "", *, detection: bool = True, stages: int = 4) -> Table:
    """The names of Hugging Face's files (which are not those in memory) against our `swin` tree.

    Args:
        prefix: prefix of the torch names: "model.pixel_level_module.encoder." in Mask2Former's files, "swin." in those
            of classifiers, whose heads are ignored.
        detection: a norm for every stage (SwinBackbone) or one at the end (SwinModel).
        stages: number of stages.
    """
    rules = [
        *layer("embeddings.patch_embeddings.projection", "patch_embed", PATCH),
        *norm("embeddings.norm", "patch_norm"),
    ]
    for i in range(stages):
        torch, ours = f"encoder.layers.{i}.blocks.{{j}}", f"stages_{i}/blocks"
        attention = f"{torch}.attention.self"
        rules += [
            *norm(f"{torch}.layernorm_before", f"{ours}/norm1"),
            *norm(f"{torch}.layernorm_after", f"{ours}/norm2"),
            *layer(f"{attention}.query", f"{ours}/attn/q"),
            *layer(f"{attention}.key", f"{ours}/attn/k"),
            *layer(f"{attention}.value", f"{ours}/attn/v"),
            *layer(f"{torch}.attention.output.dense", f"{ours}/attn/o"),
            Rule(f"{attention}.relative_position_bias_table", f"{ours}/attn/relative_bias"),
            *layer(f"{torch}.intermediate.dense", f"{ours}/mlp/fc1"),
            *layer(f"{torch}.output.dense", f"{ours}/mlp/fc2"),
        ]
    rules += _merging("encoder.layers", stages)
    if detection:
        rules += [rule for i in range(stages) for rule in norm(f"hidden_states_norms.stage{i + 1}", f"norm{i}")]
        # Newer versions also write the norm that a SwinBackbone has and never uses.
        return Table(tuple(rules), ignored=(*_BUFFERS, "swin.layernorm.*")).prefixed(prefix, "")
    rules += norm("layernorm", "norm")
    return Table(tuple(rules), ignored=_BUFFERS).prefixed(prefix, "") + Table((), ignored=("classifier.*",))


def config(leaves: Mapping[str, LazyTensor], **sizes: Any) -> SwinConfig:
    """The sizes of a Swin from the shapes of its leaves, which tell them all; `sizes` are other fields."""
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    stages = sum(path.endswith("attn/relative_bias") for path in shapes)
    tables = [shapes[f"stages_{i}/blocks/attn/relative_bias"] for i in range(stages)]
    kernel_rows, width = shapes["patch_embed/kernel"]
    values = dict(
        width=width,
        depths=tuple(depth for depth, _, _ in tables),
        heads=tuple(heads for _, _, heads in tables),
        window=(math.isqrt(tables[0][1]) + 1) // 2,
        patch_size=math.isqrt(kernel_rows // 3),
        mlp_ratio=shapes["stages_0/blocks/mlp/fc1/kernel"][-1] // width,
    )
    return fitted(SwinConfig, values, sizes)


def public(config: SwinConfig) -> dict[str, Any]:
    """The config.json of Hugging Face's `SwinBackbone` that gives the maps of all stages."""
    stages = len(config.depths)
    return {
        "model_type": "swin",
        "embed_dim": config.width,
        "depths": list(config.depths),
        "num_heads": list(config.heads),
        "window_size": config.window,
        "patch_size": config.patch_size,
        "mlp_ratio": float(config.mlp_ratio),
        "drop_path_rate": config.drop_path,
        "out_features": [f"stage{i + 1}" for i in range(stages)],
    }


def _merging(layers: str, stages: int) -> list[Rule]:
    """Torch has the merging at the end of a stage, we at the beginning of the next."""
    rules = []
    for i in range(1, stages):
        torch, ours = f"{layers}.{i - 1}.downsample", f"stages_{i}/merge"
        rules += norm(f"{torch}.norm", f"{ours}/norm")
        rules.append(Rule(f"{torch}.reduction.weight", f"{ours}/reduction/kernel", LINEAR))
    return rules
