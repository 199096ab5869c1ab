"""Writes checkpoints one tensor at a time: safetensors and torch files, whole or in shards with an index.

Whatever the size of a checkpoint, no more than one chunk of one tensor is in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from etils import epath

from grounding_jax.files.writing import replaced, write_json
from grounding_jax.weights.readers.safetensors_reader import SAFETENSORS_DTYPES
from grounding_jax.weights.tensors import FLOATS, CheckpointError, LazyTensor, has_non_finite, raw_bytes
from grounding_jax.weights.torch_writer import write_torch_archive

MAX_SHARD_BYTES = 4 * 2**30
# Called with (bytes written so far, bytes of the whole checkpoint).
Progress = Callable[[int, int], None]


def write_safetensors(
    folder: epath.PathLike, tensors: Mapping[str, LazyTensor], progress: Progress | None = None
) -> list[str]:
    """`model-0000x-of-0000y.safetensors` and `model.safetensors.index.json` in an existing folder.

    Returns the names of tensors that hold NaN or infinity: they are written as they are.
    """
    return _write_shards(epath.Path(folder), tensors, "model", ".safetensors", _write_safetensors_file, progress)


def write_torch_shards(
    folder: epath.PathLike, tensors: Mapping[str, LazyTensor], progress: Progress | None = None
) -> None:
    """`pytorch_model-0000x-of-0000y.bin` and `pytorch_model.bin.index.json` in an existing folder."""
    _write_shards(epath.Path(folder), tensors, "pytorch_model", ".bin", _write_torch_file, progress)


def write_torch(path: epath.PathLike, tensors: Mapping[str, LazyTensor], progress: Progress | None = None) -> None:
    """One torch file with a flat dict that `torch.load(mmap=True, weights_only=True)` reads."""
    _write_torch_file(epath.Path(path), tensors, _Meter(tensors, progress))


class _Meter:
    """Adds up what was written and tells the caller; `non_finite` names tensors with NaN or infinity."""

    def __init__(self, tensors: Mapping[str, LazyTensor], progress: Progress | None):
        self._total = sum(tensor.nbytes for tensor in tensors.values())
        self._done = 0
        self._progress = progress
        self.non_finite: list[str] = []

    def bytes_of(self, tensor: LazyTensor, name: str) -> Iterator[memoryview]:
        """The bytes of `tensor` in parts; CheckpointError if they are not as many as announced."""
        count = 0
        for chunk in tensor.chunks():
            for data in raw_bytes(chunk):
                if tensor.dtype in FLOATS and name not in self.non_finite[-1:] and has_non_finite(data, tensor.dtype):
                    self.non_finite.append(name)
                count += data.nbytes
                yield data
                self._done += data.nbytes
                if self._progress is not None:
                    self._progress(self._done, self._total)
        if count != tensor.nbytes:
            raise CheckpointError(f"{name}: {count:,} bytes were read where {tensor.nbytes:,} were announced")


def _write_shards(
    folder: epath.Path,
    tensors: Mapping[str, LazyTensor],
    stem: str,
    suffix: str,
    write_file: Callable[[epath.Path, Mapping[str, LazyTensor], _Meter], None],
    progress: Progress | None,
) -> list[str]:
    shards = _plan_shards(tensors)
    meter = _Meter(tensors, progress)
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file_name = f"{stem}-{number:05d}-of-{len(shards):05d}{suffix}"
        write_file(folder / file_name, {name: tensors[name] for name in names}, meter)
        weight_map |= dict.fromkeys(names, file_name)
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(folder / f"{stem}{suffix}.index.json", index, indent=2)
    return meter.non_finite


def _plan_shards(tensors: Mapping[str, LazyTensor]) -> list[list[str]]:
    """Names in their order, cut so that a shard holds at most MAX_SHARD_BYTES or a single tensor."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > MAX_SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += tensor.nbytes
    return shards


def _write_safetensors_file(path: epath.Path, tensors: Mapping[str, LazyTensor], meter: _Meter) -> None:
    names = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[key] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(8 + len(text)) % 64)
    with replaced(path) as partial, partial.open("wb") as file:
        file.write(np.array(len(text), "<u8").tobytes() + text)
        for key, tensor in tensors.items():
            for data in meter.bytes_of(tensor, key):
                file.write(data)


def _write_torch_file(path: epath.Path, tensors: Mapping[str, LazyTensor], meter: _Meter) -> None:
    with replaced(path) as partial, partial.open("wb") as file:
        write_torch_archive(file, path.stem, tensors, meter.bytes_of)
