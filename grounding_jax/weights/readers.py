"""Opens checkpoints: a torch or safetensors file, shards with an index, or a folder with either."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from grounding_jax.files import records
from grounding_jax.weights.files import FileBytes, file_tensor
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.torch_reader import read_torch

SAFETENSORS_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".pkl")
_FOLDER_FILES = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)


def open_weights(path: epath.PathLike) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by name, none of them read yet.

    `path` is a `.safetensors`, `.bin`, `.pth`, `.pt` or (detectron2's) `.pkl` file, an `.index.json` with its shards
    beside it, or a folder with one of these under its public name. Raises FileNotFoundError or CheckpointError.
    """
    path = epath.Path(path)
    if path.is_dir():
        path = _file_of_folder(path)
    if path.name.endswith(".index.json"):
        return _open_sharded(path)
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in _TORCH_SUFFIXES:
        return read_torch(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    raise CheckpointError(f"{path}: not a checkpoint file; expected .safetensors, .bin, .pth, .pt, .pkl or .index.json")


def read_json(path: epath.PathLike) -> dict:
    """A JSON object; FileNotFoundError or CheckpointError in one line."""
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        return records.read(path, dict[str, Any])
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def check_public(public: Mapping[str, Any], seen: Mapping[str, int], where: str) -> None:
    """Raises CheckpointError where a public config.json contradicts sizes seen in the weights."""
    wrong = [
        f"{name} {public[name]} (weights: {size})" for name, size in seen.items() if public.get(name, size) != size
    ]
    if wrong:
        raise CheckpointError(f"{where}: belongs to another model than the weights, it says {', '.join(wrong)}")


def _file_of_folder(folder: epath.Path) -> epath.Path:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: no weights in this folder; looked for {', '.join(_FOLDER_FILES)}")


def _open_sharded(index: epath.Path) -> dict[str, LazyTensor]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: has no weight_map from names to files")
    folder = index.parent
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{index}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing)}")
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        opened = open_weights(folder / shard)
        promised = {key for key, file in weight_map.items() if file == shard}
        if promised - opened.keys():
            absent = ", ".join(sorted(promised - opened.keys()))
            raise CheckpointError(f"{folder / shard}: the index promises these tensors, the file lacks them: {absent}")
        tensors |= opened
    return tensors


def _open_safetensors(path: epath.Path) -> dict[str, LazyTensor]:
    source = FileBytes(path)
    if source.size < 8:
        raise CheckpointError(f"{path}: truncated, {source.size} bytes are not even a safetensors header")
    length = int(np.frombuffer(bytes(source.read(0, 8)), "<u8")[0])
    if length > min(source.size - 8, 1 << 30):
        raise CheckpointError(
            f"{path}: truncated or not a safetensors file; its header should take {length:,} bytes, "
            f"the file has {source.size:,}"
        )
    try:
        header = records.decode(bytes(source.read(8, length)), dict[str, Any], str(path))
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, its header can't be read ({error})") from error
    if end != source.size:
        raise CheckpointError(f"{path}: truncated or damaged, needs {end:,} bytes and has {source.size:,}")
    return {key: _safetensors_entry(source, 8 + length, key, entry) for key, entry in header.items()}


def _safetensors_entry(source: FileBytes, data_start: int, key: str, entry: dict) -> LazyTensor:
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"])
    if dtype is None:
        raise CheckpointError(f"{source.path}: {key} has dtype {entry['dtype']}, known are {list(SAFETENSORS_DTYPES)}")
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if end - start != math.prod(shape) * dtype.itemsize:
        raise CheckpointError(f"{source.path}: {key} {list(shape)} of {dtype} does not fill its {end - start:,} bytes")
    return file_tensor(source, data_start + start, shape, dtype)
