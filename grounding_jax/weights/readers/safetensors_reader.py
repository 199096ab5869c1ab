"""Reads safetensors files: a header of JSON, and the tensors one after the other."""

from __future__ import annotations

import math

import ml_dtypes
import msgspec
import numpy as np
from etils import epath

from grounding_jax.weights.readers.files import FileBytes, file_tensor
from grounding_jax.weights.readers.json_reader import parse_json
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

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
_LARGEST_HEADER = 10**8  # bytes, as in the safetensors library


class _Entry(msgspec.Struct):
    """A tensor in the header of a safetensors file."""

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_safetensors(path: epath.Path) -> dict[str, LazyTensor]:
    """The tensors of a `.safetensors` file by name, lazily; FileNotFoundError, or CheckpointError if it is damaged."""
    source = FileBytes(path)
    if source.size < 8:
        raise CheckpointError(f"{path}: truncated, {source.size} bytes are not even a safetensors header")
    length = int(np.frombuffer(bytes(source.read(0, 8)), "<u8")[0])
    if length > min(source.size - 8, _LARGEST_HEADER):
        raise CheckpointError(
            f"{path}: truncated or not a safetensors file; its header should take {length:,} bytes, "
            f"the file has {source.size:,}"
        )
    what = f"{path}: no safetensors file: its header"
    header = parse_json(bytes(source.read(8, length)), dict[str, msgspec.Raw], what)
    header.pop("__metadata__", None)
    entries = {key: parse_json(raw, _Entry, f"{what}, {key},") for key, raw in header.items()}
    end = 0
    for key, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        start, stop = entry.data_offsets
        if start != end or stop < start:
            raise CheckpointError(f"{path}: damaged, {key} should begin at byte {end:,} of the data, not {start:,}")
        end = stop
    if 8 + length + end != source.size:
        raise CheckpointError(f"{path}: truncated or damaged, needs {8 + length + end:,} bytes and has {source.size:,}")
    return {key: _safetensors_entry(source, 8 + length, key, entry) for key, entry in entries.items()}


def _safetensors_entry(source: FileBytes, data_start: int, key: str, entry: _Entry) -> LazyTensor:
    dtype, (start, end) = SAFETENSORS_DTYPES.get(entry.dtype), entry.data_offsets
    if dtype is None:
        raise CheckpointError(f"{source.path}: {key} has dtype {entry.dtype}, known are {list(SAFETENSORS_DTYPES)}")
    if end - start != math.prod(entry.shape) * dtype.itemsize:
        raise CheckpointError(f"{source.path}: {key} {entry.shape} of {dtype} does not fill its {end - start:,} bytes")
    return file_tensor(source, data_start + start, entry.shape, dtype)
