"""CLIP's vision tower in the naming of Hugging Face (spec gsva b.1, b.5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.models import clip as clip_model
from grounding_jax.models.clip import ClipConfig
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import read_part
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.rules import layer, norm
from grounding_jax.weights.sizes import check_public, fitted, read_fields, read_object
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import LazyTensor
from grounding_jax.weights.transforms import PATCH

# Head width of every CLIP vision tower by OpenAI and LAION, for weights that come without a config.json.
_HEAD_WIDTH = 64


def load(path: epath.PathLike, dtype: np.dtype | None = None, **sizes: Any) -> tuple[ClipConfig, dict]:
    """A published vision tower: its sizes, and the parameters for `models.clip`. A text tower is left out.

    Args:
        path: a folder in Hugging Face's layout, or a file of weights, whose heads are then taken to be 64 wide.
        dtype: dtype of the parameters; None: as in the file.
        **sizes: fields of `ClipConfig` that win over shapes and config.json.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or no CLIP.
    """
    _, tensors = open_layout(path, ("CLIP",))
    leaves = table().to_ours(tensors, str(path))
    found = config(leaves, folder.read_public(path), str(epath.Path(path) / folder.CONFIG_FILE), **sizes)
    return read_part(table(), leaves, clip_model.init, found, path, dtype)


def table() -> Table:
    """`vision_model.*` against our `clip` tree. The text tower of a full CLIP checkpoint is ignored.

    transformers 5 writes a tower by itself without `vision_model.`, which is accepted and written back with it.
    """
    rules = [
        Rule("embeddings.class_embedding", "class_embed"),
        Rule("embeddings.patch_embedding.weight", "patch_embed/kernel", PATCH),
        Rule("embeddings.position_embedding.weight", "pos_embed"),
        *norm("pre_layrnorm", "pre_norm"),
        *norm("post_layernorm", "post_norm"),
        *norm("encoder.layers.{i}.layer_norm1", "layers/norm1"),
        *norm("encoder.layers.{i}.layer_norm2", "layers/norm2"),
        *layer("encoder.layers.{i}.mlp.fc1", "layers/mlp/fc1"),
        *layer("encoder.layers.{i}.mlp.fc2", "layers/mlp/fc2"),
    ]
    for name, torch in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("o", "out_proj")):
        rules += layer(f"encoder.layers.{{i}}.self_attn.{torch}", f"layers/attn/{name}")
    vision = Table(tuple(rules), ignored=("embeddings.position_ids",)).prefixed("vision_model.", "")
    vision = vision.accepting(lambda name: name.removeprefix("vision_model."))
    text_side = ("text_model.*", "text_projection.weight", "visual_projection.weight", "logit_scale")
    return vision + Table((), ignored=text_side)


def config(leaves: Mapping[str, LazyTensor], public: Mapping[str, Any], where: str, **sizes: Any) -> ClipConfig:
    """The sizes of a vision tower from the shapes of its leaves and from what shapes can't tell.

    Args:
        leaves: our leaves by path.
        public: a Hugging Face config.json (heads, eps, activation); may be empty.
        where: names that file in errors.
        **sizes: fields of `ClipConfig` that win over both.

    Raises:
        CheckpointError: `public` is of another tower.
        ValueError: `sizes` contradict the shapes.
    """
    public = read_object(public, "vision_config", where) or public
    kernel_rows, width = leaves["patch_embed/kernel"].shape
    layers, _, hidden = leaves["layers/mlp/fc1/kernel"].shape
    patch = math.isqrt(kernel_rows // 3)
    image = math.isqrt(leaves["pos_embed"].shape[0] - 1) * patch
    seen = {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers}
    check_public(public, {**seen, "patch_size": patch, "image_size": image}, where)
    names = {"heads": "num_attention_heads", "eps": "layer_norm_eps", "activation": "hidden_act"}
    found = dict(image_size=image, patch_size=patch, width=width, hidden=hidden, layers=layers)
    values = {"heads": max(1, width // _HEAD_WIDTH)} | read_fields(public, names, ClipConfig, where) | sizes
    return fitted(ClipConfig, found, values)


def public(config: ClipConfig, dtype: np.dtype) -> dict[str, Any]:
    """The config.json of Hugging Face's `CLIPVisionModel`."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "layer_norm_eps": config.eps,
        "hidden_act": config.activation,
        "torch_dtype": str(dtype),
    }
