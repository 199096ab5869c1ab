"""MobileNetV2 in the naming of torchvision and of Hugging Face (spec gella g)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.models import mobilenet as mobilenet_model
from grounding_jax.models.mobilenet import REPEATS, MobileNetConfig
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import read_part
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.rules import norm
from grounding_jax.weights.sizes import read_fields
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import LazyTensor
from grounding_jax.weights.transforms import CONV, CONV_1X1, Transform

LAYOUTS = ("MobileNetV2", "MobileNetV2-hf")
_BLOCKS = sum(REPEATS)
_COUNTERS = "*.num_batches_tracked"


def load(
    path: epath.PathLike, dtype: np.dtype | None = None, *, detection: bool = True
) -> tuple[MobileNetConfig, dict]:
    """A published MobileNetV2: its sizes and convention, and the parameters for `models.mobilenet`.

    Args:
        path: a file of torchvision, or a folder in Hugging Face's layout.
        dtype: dtype of the parameters; None: as in the file.
        detection: for `mobilenet.pyramid`; False keeps the last convolution, for `mobilenet.encode`.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or no MobileNetV2.
    """
    layout, tensors = open_layout(path, LAYOUTS)
    table, found, leaves = read(layout, tensors, path, detection=detection)
    init = functools.partial(mobilenet_model.init, detection=detection)
    return read_part(table, leaves, init, found, path, dtype)


def read(
    layout: str, tensors: Mapping[str, LazyTensor], path: epath.PathLike, *, detection: bool = True
) -> tuple[Table, MobileNetConfig, dict[str, LazyTensor]]:
    """The table of a published MobileNetV2, its sizes and its leaves.

    Args:
        layout: see `layouts.open_layout`.
        tensors: tensors of the checkpoint.
        path: the file or folder; a config.json in it tells the convention.
        detection: leave out the last convolution, which only the stand-alone form has.
    """
    if layout == "MobileNetV2":
        table, usual = torchvision(detection=detection), MobileNetConfig.torchvision()
    else:
        prefix = "mobilenet_v2." if any(key.startswith("mobilenet_v2.") for key in tensors) else ""
        table, usual = transformers(prefix, detection=detection), convention(folder.read_public(path))
    leaves = table.to_ours(tensors, str(path))
    return table, config(leaves, usual), leaves


def torchvision(*, detection: bool = True) -> Table:
    """torchvision's names against our `mobilenet` tree; with `detection` the last convolution is left out."""
    rules = _unit("features.0.0", "features.0.1", "stem", CONV)
    for i in range(_BLOCKS):
        torch, ours = f"features.{i + 1}.conv", f"blocks_{i}"
        second = 1 if i else 0  # the first block has no unit before the depthwise one
        if i:
            rules += _unit(f"{torch}.0.0", f"{torch}.0.1", f"{ours}/expand", CONV_1X1)
        rules += _unit(f"{torch}.{second}.0", f"{torch}.{second}.1", f"{ours}/depthwise", CONV)
        rules += _unit(f"{torch}.{second + 1}", f"{torch}.{second + 2}", f"{ours}/project", CONV_1X1)
    head, ignored = f"features.{_BLOCKS + 1}", (_COUNTERS, "classifier.*")
    if detection:
        return Table(tuple(rules), (*ignored, f"{head}.*"))
    rules += _unit(f"{head}.0", f"{head}.1", "head", CONV_1X1)
    return Table(tuple(rules), ignored)


def transformers(prefix: str = "", *, detection: bool = True) -> Table:
    """Hugging Face's names against our `mobilenet` tree.

    Args:
        prefix: prefix of the torch names: "mobilenet_v2." in files of classifiers and segmenters, whose heads are
            ignored.
        detection: leave out the last convolution, which only the stand-alone form has.
    """
    rules = _named_unit("conv_stem.first_conv", "stem", CONV)
    for i in range(_BLOCKS):
        torch, ours = f"layer.{i - 1}" if i else "conv_stem", f"blocks_{i}"
        if i:
            rules += _named_unit(f"{torch}.expand_1x1", f"{ours}/expand", CONV_1X1)
        rules += _named_unit(f"{torch}.conv_3x3", f"{ours}/depthwise", CONV)
        rules += _named_unit(f"{torch}.reduce_1x1", f"{ours}/project", CONV_1X1)
    if detection:
        table = Table(tuple(rules), (_COUNTERS, "conv_1x1.*"))
    else:
        table = Table((*rules, *_named_unit("conv_1x1", "head", CONV_1X1)), (_COUNTERS,))
    return table.prefixed(prefix, "") + Table((), ("classifier.*", "segmentation_head.*"))


def config(leaves: Mapping[str, LazyTensor], convention: MobileNetConfig) -> MobileNetConfig:
    """The sizes of a MobileNetV2 from the shapes of its leaves, with the convention and other fields of `convention`.

    torchvision's files follow `MobileNetConfig.torchvision()`; those of Hugging Face `tensorflow()`, unless their
    config.json says otherwise (`convention`): weights can't tell.
    """
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    lasts = [count - 1 for count in itertools.accumulate(REPEATS)]
    sizes = dict(
        stem=shapes["stem/kernel"][-1],
        widths=tuple(shapes[f"blocks_{i}/project/kernel"][-1] for i in lasts),
    )
    if "head/kernel" in shapes:
        sizes["head"] = shapes["head/kernel"][-1]
    return dataclasses.replace(convention, **sizes)


def convention(public: Mapping[str, Any]) -> MobileNetConfig:
    """The convention that a config.json of Hugging Face states; that of its own files where it is silent."""
    own = MobileNetConfig.tensorflow()
    names = {"same_padding": "tf_padding", "eps": "layer_norm_eps"}
    return dataclasses.replace(own, **read_fields(public, names, MobileNetConfig, "config.json"))


def public(config: MobileNetConfig, dtype: np.dtype) -> dict[str, Any]:
    """The config.json of Hugging Face's `MobileNetV2Model`, whose widths are multiples of the published ones."""
    return {
        "architectures": ["MobileNetV2Model"],
        "model_type": "mobilenet_v2",
        "depth_multiplier": config.widths[-1] / MobileNetConfig.widths[-1],
        "tf_padding": config.same_padding,
        "layer_norm_eps": config.eps,
        "torch_dtype": str(dtype),
    }


def _named_unit(torch: str, ours: str, transform: Transform) -> list[Rule]:
    return _unit(f"{torch}.convolution", f"{torch}.normalization", ours, transform)


def _unit(convolution: str, normalization: str, ours: str, transform: Transform) -> list[Rule]:
    """A convolution and its batch norm."""
    return [
        Rule(f"{convolution}.weight", f"{ours}/kernel", transform),
        *norm(normalization, f"{ours}/norm"),
        Rule(f"{normalization}.running_mean", f"{ours}/norm/mean"),
        Rule(f"{normalization}.running_var", f"{ours}/norm/var"),
    ]
