"""LLaVA v1.1 is published as a difference to LLaMA: target = base + delta (spec gsva b.4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from etils import epath

from grounding_jax.files import regular
from grounding_jax.files.text import read_text
from grounding_jax.files.writing import write_bytes, write_text
from grounding_jax.weights import folder
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.table import check_floats
from grounding_jax.weights.tables import llama
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.writers import Progress, write_torch_shards

# Rows beyond the base's vocabulary belong to the delta alone.
_GROWN = ("model.embed_tokens.weight", "lm_head.weight")
_COPIED = (
    "added_tokens.json",
    "generation_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "tokenizer_config.json",
)


def add_delta(base: Mapping[str, LazyTensor], delta: Mapping[str, LazyTensor], where: str) -> dict[str, LazyTensor]:
    """The sum of two checkpoints, in the dtype of `delta`; what only `delta` has is taken as it is.

    The base is first rounded to the dtype of the delta, as the published script does with both in float16.
    Raises CheckpointError when `base` lacks a LLaMA tensor that `delta` has, has others, or shapes differ.
    """
    ignored = llama.table(lora=False).is_ignored
    base = {key: tensor for key, tensor in base.items() if not ignored(key)}
    delta = {key: tensor for key, tensor in delta.items() if not ignored(key)}
    lacking = [key for key in delta if key not in base and "mm_projector" not in key and "vision_tower" not in key]
    surplus = [key for key in base if key not in delta]
    if lacking or surplus:
        raise CheckpointError(f"{where}: not of one model; only in the delta: {lacking}; only in the base: {surplus}")
    check_floats(base, where)
    check_floats(delta, where)
    return {key: _sum(base.get(key), tensor, key, where) for key, tensor in delta.items()}


def write_delta(
    base: epath.PathLike, delta: epath.PathLike, out: epath.PathLike, progress: Progress | None = None
) -> None:
    """Writes the LLaVA folder that `delta` describes: sharded torch files, its config.json and tokenizer."""
    base, delta, out = epath.Path(base), epath.Path(delta), epath.Path(out)
    folder.check_free(out)
    (_, added), (_, difference) = open_layout(base, ("LLaMA",)), open_layout(delta, ("llava",))
    tensors = add_delta(added, difference, f"{base} + {delta}")
    config = read_text(delta / folder.CONFIG_FILE)
    out.mkdir(parents=True, exist_ok=True)
    write_torch_shards(out, tensors, progress)
    for name in _COPIED:
        if (delta / name).is_file():
            write_bytes(out / name, regular.read_bytes(delta / name))
    write_text(out / folder.CONFIG_FILE, config)


def _sum(base: LazyTensor | None, delta: LazyTensor, key: str, where: str) -> LazyTensor:
    if base is None:
        return delta
    grown = key in _GROWN and base.shape[1:] == delta.shape[1:] and base.shape[0] <= delta.shape[0]
    if base.shape != delta.shape and not grown:
        raise CheckpointError(f"{where}: {key} is {list(base.shape)} in the base, {list(delta.shape)} in the delta")

    def read() -> np.ndarray:
        out = np.array(delta.read())
        rounded = base.read().astype(delta.dtype).astype(np.float32)
        out[: base.shape[0]] = (rounded + out[: base.shape[0]].astype(np.float32)).astype(delta.dtype)
        return out

    return LazyTensor(delta.shape, delta.dtype, read)
