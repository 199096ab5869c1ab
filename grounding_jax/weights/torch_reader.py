"""Reads the files of torch.save without torch and without running anything that is written in them.

A torch file is a pickle of small descriptions (which storage, offset, shape, strides) next to the raw
storages. The pickle is read by an unpickler that knows the handful of names a state dict needs and refuses
every other one before it could be called; the storages are memory-mapped. detectron2's files are a pickle of
NumPy arrays and nothing else: those are in memory.
"""

from __future__ import annotations

import collections
import dataclasses
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
from etils import epath

from grounding_jax.files.regular import open_regular
from grounding_jax.weights.files import FileBytes, file_tensor
from grounding_jax.weights.pickled_arrays import STAND_INS, PickledArray
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

STORAGE_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A raw storage of `numel` elements that starts at byte `offset` of the file."""

    source: FileBytes
    offset: int
    dtype: np.dtype
    numel: int


def read_torch(path: epath.PathLike) -> dict[str, LazyTensor]:
    """The tensors of a `.bin`, `.pth` or `.pt` file by name, lazily; also of the format before torch 1.6.

    Those of detectron2's `.pkl`, too, except that its arrays are read at once (spec gella g). A state dict may
    be wrapped in one of the usual keys (`state_dict`, `model`, `module`, `model_state_dict`). Raises
    FileNotFoundError, or CheckpointError for damaged files, other formats, and pickles that want to call
    anything which a state dict does not need (spec gsva b).
    """
    source = FileBytes(path)
    start = bytes(source.read(0, min(4, source.size)))
    if start == b"PK\x03\x04":
        content = _read_zip(source)
    elif start[:1] == b"\x80":
        content = _read_legacy(source)
    elif bytes(source.read(0, min(24, source.size))).startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: a git-lfs pointer, not the weights; fetch the file itself with `git lfs pull`")
    else:
        raise CheckpointError(f"{path}: neither a torch zip file nor an older torch file (starts with {start!r})")
    return _state_dict(content, path)


def _read_zip(source: FileBytes) -> Any:
    try:
        with open_regular(source.path) as file, zipfile.ZipFile(file) as archive:
            records = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except zipfile.BadZipFile:
        raise CheckpointError(
            f"{source.path}: truncated, the zip directory at the end is missing (has {source.size:,} bytes)"
        ) from None
    if "data.pkl" not in records:
        raise CheckpointError(f"{source.path}: a zip file without data.pkl, so not written by torch.save")
    order = records.get("byteorder")
    if order is not None and bytes(_record(source, order)) != b"little":
        raise CheckpointError(f"{source.path}: written on a big-endian machine; re-save it on a little-endian one")

    def storage(dtype: np.dtype, key: str, numel: int) -> _Storage:
        info = records.get(f"data/{key}")
        if info is None:
            raise CheckpointError(f"{source.path}: storage data/{key} is missing in the zip file")
        if info.file_size != numel * dtype.itemsize:
            raise CheckpointError(
                f"{source.path}: storage data/{key} has {info.file_size:,} bytes, "
                f"its {numel:,} elements of {dtype} need {numel * dtype.itemsize:,}"
            )
        return _Storage(source, _record_offset(source, info), dtype, numel)

    return _unpickle(io.BytesIO(bytes(_record(source, records["data.pkl"]))), source, storage)


def _record_offset(source: FileBytes, info: zipfile.ZipInfo) -> int:
    if info.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(f"{source.path}: {info.filename} is compressed; torch.save stores records as they are")
    header = bytes(source.read(info.header_offset, 30))
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + name_length + extra_length


def _record(source: FileBytes, info: zipfile.ZipInfo) -> np.ndarray:
    return source.read(_record_offset(source, info), info.file_size)


def _read_legacy(source: FileBytes) -> Any:
    """The format before torch 1.6: four pickles, the list of storage keys, then the storages in that order.

    The pickles only name the storages; where each one starts is known after the key list behind them. The
    tensors are therefore built in a second pass over the same pickle.
    """
    with open_regular(source.path) as file:
        reader = _CountingReader(file)
        numels: dict[str, tuple[np.dtype, int]] = {}

        def note(dtype: np.dtype, key: str, numel: int) -> _Storage:
            numels[key] = (dtype, numel)
            return _Storage(source, 0, dtype, numel)

        first = _unpickle(reader, source, note)
        if isinstance(first, Mapping) and not numels:  # all of detectron2's file: arrays, no storages
            return first
        if first != _LEGACY_MAGIC:
            raise CheckpointError(f"{source.path}: a plain pickle, not a checkpoint written by torch.save")
        if _unpickle(reader, source, note) != _LEGACY_PROTOCOL:
            raise CheckpointError(f"{source.path}: an unknown version of the older torch format; re-save it with torch")
        _unpickle(reader, source, note)
        content_at = reader.position
        _unpickle(reader, source, note)
        keys = _unpickle(reader, source, note)
        offsets, position = {}, reader.position
        for key in keys:
            if key not in numels:
                raise CheckpointError(f"{source.path}: damaged, storage {key} belongs to no tensor")
            dtype, numel = numels[key]
            stored = int(source.read(position, 8).view(np.int64)[0])
            if stored != numel:
                raise CheckpointError(f"{source.path}: storage {key} has {stored:,} elements, {numel:,} were announced")
            offsets[key] = position + 8
            position += 8 + numel * dtype.itemsize
        reader.seek(content_at)
        return _unpickle(reader, source, lambda dtype, key, numel: _Storage(source, offsets[key], dtype, numel))


class _CountingReader:
    """The two methods that pickle needs, knowing exactly how far it has read."""

    def __init__(self, file: io.BufferedIOBase):
        self._file = file
        self.position = 0

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self.position = position

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.position += len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline()
        self.position += len(data)
        return data


def _unpickle(file: Any, source: FileBytes, storage: Callable[[np.dtype, str, int], _Storage]) -> Any:
    unpickler = _StateDictUnpickler(file, encoding="utf-8")
    unpickler.where, unpickler.storage = str(source.path), storage
    try:
        return unpickler.load()
    except CheckpointError:
        raise
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
    ) as error:
        raise CheckpointError(f"{source.path}: damaged, its index can't be read ({error})") from error


class _StateDictUnpickler(pickle.Unpickler):
    """Knows what a state dict is made of. Every other name is refused before anything of it is imported."""

    where: str
    storage: Callable[[np.dtype, str, int], _Storage]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        raise CheckpointError(
            f"{self.where}: refused, it asks for {module}.{name}, which is not part of a state dict "
            "(nothing of the file was run); save only the state dict"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], np.dtype):
            raise CheckpointError(f"{self.where}: an unknown kind of storage reference {pid!r}")
        _, dtype, key, _, numel = pid[:5]
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError(f"{self.where}: storage {key} is a view of another one; re-save the file with torch")
        return self.storage(dtype, key, numel)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *unused: Any
) -> LazyTensor:
    """Stands in for torch._utils._rebuild_tensor_v2; offset and strides count elements, as in the file."""
    width = storage.dtype.itemsize
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if offset < 0 or (0 not in shape and offset + last >= storage.numel):
        raise CheckpointError(
            f"{storage.source.path}: a tensor {list(shape)} reaches beyond its {storage.numel:,} elements"
        )
    byte_strides = [stride * width for stride in strides]
    return file_tensor(storage.source, storage.offset + offset * width, shape, storage.dtype, byte_strides)


def _rebuild_parameter(data: LazyTensor, *unused: Any) -> LazyTensor:
    return data


def _state_dict(content: Any, path: epath.PathLike) -> dict[str, LazyTensor]:
    """The flat dict of tensors in `content`, looking through one wrapper."""
    for wrapper in ("state_dict", "model", "module", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dict of tensors")
    content = {key: value.tensor if isinstance(value, PickledArray) else value for key, value in content.items()}
    strangers = [str(key) for key, value in content.items() if not isinstance(value, LazyTensor)]
    if strangers:
        raise CheckpointError(f"{path}: {len(strangers)} entries are not tensors: {', '.join(strangers[:10])}")
    return content
