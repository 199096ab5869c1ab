"""What the shapes of a checkpoint can't tell: the `--sizes` file, its keys and what they set."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

from etils import epath

from grounding_jax.weights.readers import read_json
from grounding_jax.weights.tensors import CheckpointError

# Keys of the file: (part of the config, its field).
_KEYS = {
    "hidden": ("llama", "width"),
    "inter": ("llama", "hidden"),
    "layers": ("llama", "layers"),
    "heads": ("llama", "heads"),
    "kv_heads": ("llama", "kv_heads"),
    "rms_eps": ("llama", "eps"),
    "rope_theta": ("llama", "rope_theta"),
    "max_positions": ("llama", "max_positions"),
    "lora_r": ("llama", "lora_rank"),
    "lora_alpha": ("llama", "lora_alpha"),
    "clip_img": ("clip", "image_size"),
    "clip_patch": ("clip", "patch_size"),
    "clip_hidden": ("clip", "width"),
    "clip_inter": ("clip", "hidden"),
    "clip_layers": ("clip", "layers"),
    "clip_heads": ("clip", "heads"),
    "clip_ln_eps": ("clip", "eps"),
    "clip_act": ("clip", "activation"),
    "sam_img": ("sam", "image_size"),
    "sam_patch": ("sam", "patch_size"),
    "sam_dim": ("sam", "width"),
    "sam_depth": ("sam", "layers"),
    "sam_heads": ("sam", "heads"),
    "sam_global": ("sam", "global_blocks"),
    "sam_window": ("sam", "window"),
    "sam_ln_eps": ("sam", "eps"),
    "pdim": ("sam", "prompt_width"),
    "dec_mlp": ("sam", "decoder_hidden"),
    "dec_heads": ("sam", "decoder_heads"),
    "two_way_depth": ("sam", "decoder_layers"),
    "sam_iou_head_hidden": ("sam", "iou_hidden"),
    "sam_iou_head_depth": ("sam", "iou_layers"),
    "mm_vision_select_layer": ("gsva", "select_layer"),
    "conv_type": ("gsva", "template"),
    "template": ("gsva", "template"),
    "model_max_length": ("gsva", "model_max_length"),
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Config fields that the user gave, by part, and the keys of the file that set none."""

    llama: dict[str, Any] = dataclasses.field(default_factory=dict)
    clip: dict[str, Any] = dataclasses.field(default_factory=dict)
    sam: dict[str, Any] = dataclasses.field(default_factory=dict)
    gsva: dict[str, Any] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()


def read_sizes(path: epath.PathLike | None) -> Sizes:
    """Reads a `--sizes` file; None gives no sizes.

    Keys that set nothing (a file may also describe ids, losses, versions) are returned in `unused`, so that
    the caller can say so. Raises FileNotFoundError, or CheckpointError for a key that looks like a misspelt
    one.
    """
    if path is None:
        return Sizes()
    sizes = Sizes()
    unused = []
    for key, value in read_json(path).items():
        if key not in _KEYS:
            _refuse_typo(key, path)
            unused.append(key)
            continue
        part, field = _KEYS[key]
        getattr(sizes, part)[field] = tuple(value) if isinstance(value, list) else value
    return dataclasses.replace(sizes, unused=tuple(unused))


def _refuse_typo(key: str, path: epath.PathLike) -> None:
    close = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.9)
    if close:
        raise CheckpointError(f"{path}: unknown key {key}, did you mean {close[0]}?")
