"""Reads the files of torch.save without torch and without running anything that is written in them.

A torch file is a pickle of small descriptions (which storage, offset, shape, strides) next to the raw
storages. The pickle is read by an unpickler that knows the handful of names a state dict needs and puts an
empty stand-in for every other one, so that nothing could be called; the storages are memory-mapped. detectron2's
files are a pickle of NumPy arrays and nothing else: those are in memory.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Self

import ml_dtypes
import numpy as np
from etils import epath

from grounding_jax.files import pickles
from grounding_jax.files.regular import open_regular
from grounding_jax.weights.readers.files import FileBytes, file_tensor
from grounding_jax.weights.readers.pickled_arrays import STAND_INS, PickledArray
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, Weights

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
_WRAPPERS = ("state_dict", "model", "module", "model_state_dict")
_MOST_WRAPPERS = 3
# What reading damaged pickles and zip files raises.
_DAMAGE = (*pickles.DAMAGE, zipfile.BadZipFile, struct.error, NotImplementedError)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


@dataclasses.dataclass(frozen=True)
class _Storage:
    """A raw storage of `numel` elements that starts at byte `offset` of the file."""

    source: FileBytes
    offset: int
    dtype: np.dtype
    numel: int


def read_torch(path: epath.PathLike) -> Weights:
    """The tensors of a `.bin`, `.pth` or `.pt` file by name, lazily; also of the format before torch 1.6.

    Those of detectron2's `.pkl`, too, except that its arrays are read at once (spec gella g). A state dict may
    lie in what a training program saves with it (`state_dict`, `model`, `module`, `model_state_dict`); the report says
    what was left out. Raises FileNotFoundError, or CheckpointError for damaged files, other formats, and state dicts
    that want to call anything which tensors do not need (spec gsva b).
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
            infos = archive.infolist()
    except _DAMAGE as error:
        raise CheckpointError(
            f"{source.path}: truncated, the zip directory at the end is missing (has {source.size:,} bytes; {error})"
        ) from None
    records = {info.filename.partition("/")[2]: info for info in infos}
    if len(records) < len(infos):
        raise CheckpointError(f"{source.path}: damaged, its zip directory names a record twice")
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
        reader = _BoundedReader(file, source.size)
        numels: dict[str, tuple[np.dtype, int]] = {}

        def note(dtype: np.dtype, key: str, numel: int) -> _Storage:
            numels[key] = (dtype, numel)
            return _Storage(source, 0, dtype, numel)

        first = _unpickle(reader, source, note)
        if isinstance(first, Mapping) and not numels:  # all of detectron2's file: arrays, no storages
            return first
        _refuse_foreign([first], source.path)
        if first != _LEGACY_MAGIC:
            raise CheckpointError(f"{source.path}: a plain pickle, not a checkpoint written by torch.save")
        if _unpickle(reader, source, note) != _LEGACY_PROTOCOL:
            raise CheckpointError(f"{source.path}: an unknown version of the older torch format; re-save it with torch")
        _unpickle(reader, source, note)
        content_at = reader.tell()
        _unpickle(reader, source, note)
        keys = _unpickle(reader, source, note)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
            raise CheckpointError(f"{source.path}: damaged, its list of storages can't be read")
        offsets, position = {}, reader.tell()
        for key in keys:
            if key not in numels:
                raise CheckpointError(f"{source.path}: damaged, storage {key} belongs to no tensor")
            dtype, numel = numels[key]
            (stored,) = struct.unpack("<q", bytes(source.read(position, 8)))
            if stored != numel:
                raise CheckpointError(f"{source.path}: storage {key} has {stored:,} elements, {numel:,} were announced")
            offsets[key] = position + 8
            position += 8 + numel * dtype.itemsize
        reader.seek(content_at)
        return _unpickle(reader, source, lambda dtype, key, numel: _Storage(source, offsets[key], dtype, numel))


class _BoundedReader:
    """What pickle needs of a file, knowing exactly how far it has read, and never asking for more than there is."""

    def __init__(self, file: io.BufferedIOBase, size: int):
        self._file, self._size = file, size
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        self._file.seek(position)
        self._position = position

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._size - self._position))
        self._position += len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline()
        self._position += len(data)
        return data


def _unpickle(file: Any, source: FileBytes, storage: Callable[[np.dtype, str, int], _Storage]) -> Any:
    """What the pickle at the position of `file` describes; CheckpointError if it is damaged."""
    unpickler = _StateDictUnpickler(file, encoding="utf-8")
    unpickler.where, unpickler.storage = str(source.path), storage
    try:
        pickles.check_memo(file)
        return unpickler.load()
    except CheckpointError:
        raise
    except _DAMAGE as error:
        text = str(error)[:200]
        raise CheckpointError(f"{source.path}: damaged, its index can't be read ({text})") from error


class _StorageType(NamedTuple):
    """Stands in for torch.FloatStorage and its like."""

    dtype: np.dtype


class _StateDict(dict):
    """Stands in for OrderedDict, without the attributes that a file may set: torch keeps versions of modules there."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _Foreign:
    """Stands in for everything else that a file asks for: nothing of it is imported, and what is done to it is lost."""

    asked: str  # of the subclass for each name

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = append


class _StateDictUnpickler(pickle.Unpickler):
    """Knows what a state dict is made of. Every other name becomes a `_Foreign` before anything of it is imported."""

    where: str
    storage: Callable[[np.dtype, str, int], _Storage]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _StateDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in STORAGE_DTYPES:
            return _StorageType(STORAGE_DTYPES[name])
        if (module, name) in STAND_INS:
            return STAND_INS[module, name]
        return type("Foreign", (_Foreign,), {"asked": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> _Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage" or not isinstance(pid[1], _StorageType):
            raise CheckpointError(f"{self.where}: an unknown kind of storage")
        _, kind, key, _, numel = pid[:5]
        if not isinstance(key, str) or type(numel) is not int or numel < 0:
            raise CheckpointError(f"{self.where}: damaged, a storage without a name or a number of elements")
        if len(pid) > 5 and pid[5] is not None:
            raise CheckpointError(f"{self.where}: storage {key} is a view of another one; re-save the file with torch")
        return self.storage(kind.dtype, key, numel)


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *unused: Any
) -> LazyTensor:
    """Stands in for torch._utils._rebuild_tensor_v2; offset and strides count elements, as in the file."""
    if not isinstance(storage, _Storage) or not all(type(number) is int for number in (offset, *shape, *strides)):
        raise ValueError("a tensor whose sizes are no numbers")
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


def _state_dict(content: Any, path: epath.PathLike) -> Weights:
    """The flat dict of tensors in `content`, looking through what programs put around it, and in words what was there.

    That is one of the usual entries, or else the only entry with nothing but tensors.
    """
    report = []
    for _ in range(_MOST_WRAPPERS):
        if not isinstance(content, Mapping) or _is_tensors(content):
            break
        _refuse_shard(content, path)
        dicts = [key for key, value in content.items() if isinstance(value, Mapping)]
        found = [key for key in _WRAPPERS if key in dicts] or [key for key in dicts if _is_tensors(content[key])]
        if not found or (found[0] not in _WRAPPERS and len(found) > 1):
            break
        rest = _listed(key for key in content if key != found[0])
        report += [f"read: {found[0]} of {path}; left out: {rest}"] if rest else []
        content = content[found[0]]
    if isinstance(content, _Foreign) or not isinstance(content, Mapping):
        _refuse_foreign([content], path)
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dict of tensors")
    _refuse_foreign([*content.values(), *content], path)
    strangers = [key for key, value in content.items() if not _is_tensor(key, value)]
    if strangers:
        raise CheckpointError(f"{path}: {len(strangers)} entries are not tensors: {_listed(strangers)}")
    tensors = {key: value.tensor if isinstance(value, PickledArray) else value for key, value in content.items()}
    return Weights(tensors, report)


def _listed(keys: Iterable[Any]) -> str:
    """The first keys of a dict in words; written out, a key that is no text could be of any length."""
    first = itertools.islice(keys, 10)
    return ", ".join(key[:100] if isinstance(key, str) else f"a key that is a {type(key).__name__}" for key in first)


def _is_tensors(content: Mapping) -> bool:
    return bool(content) and all(_is_tensor(key, value) for key, value in content.items())


def _is_tensor(key: Any, value: Any) -> bool:
    value = value.tensor if isinstance(value, PickledArray) else value
    return isinstance(key, str) and isinstance(value, LazyTensor)


def _refuse_foreign(content: Iterable[Any], path: epath.PathLike) -> None:
    """Raises CheckpointError for what is no part of a state dict, in the place of tensors or their names."""
    for value in content:
        if isinstance(value, _Foreign) or (isinstance(value, type) and issubclass(value, _Foreign)):
            raise CheckpointError(
                f"{path}: refused, it asks for {value.asked[:200]}, which is not part of a state dict "
                "(nothing of the file was run); save only the state dict"
            )


def _refuse_shard(content: Mapping, path: epath.PathLike) -> None:
    """Raises CheckpointError for a file of DeepSpeed that has a part of the weights only."""
    module = content.get("module")
    if "ds_version" in content and not (
        isinstance(module, Mapping)
        and content.get("mp_world_size", 1) == 1
        and _is_tensors(module)
        and all(math.prod(tensor.shape) for tensor in module.values())
    ):
        raise CheckpointError(
            f"{path}: one of DeepSpeed's shards; put them together with its `python zero_to_fp32.py FOLDER OUT.bin`"
        )
