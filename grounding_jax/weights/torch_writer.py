"""Writes a flat dict of tensors in the zip format of torch.save, without torch and without holding the dict.

The format: a pickle that describes every tensor (storage number, shape, strides) and one uncompressed record
per storage, whose data starts at a multiple of 64 bytes so that it can be memory-mapped.
"""

from __future__ import annotations

import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import Any, BinaryIO

from grounding_jax.weights.readers.torch_reader import STORAGE_DTYPES
from grounding_jax.weights.tensors import LazyTensor

_ALIGNMENT = 64
_PADDING_ID = 0x4246  # "FB", the zip extra field with which torch itself pads
_ZIP64_FIELD_BYTES = 20


def write_torch_archive(
    file: BinaryIO,
    name: str,
    tensors: Mapping[str, LazyTensor],
    bytes_of: Callable[[LazyTensor, str], Iterable[memoryview]],
) -> None:
    """Writes `tensors` to an open binary file.

    Args:
        file: where to.
        name: of the folder inside the zip.
        tensors: by name.
        bytes_of: gives the bytes of a tensor in C order, in parts.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        index = _pickled_index(tensors)
        _add_record(archive, f"{name}/data.pkl", len(index), [index])
        _add_record(archive, f"{name}/byteorder", 6, [b"little"])
        for number, (key, tensor) in enumerate(tensors.items()):
            _add_record(archive, f"{name}/data/{number}", tensor.nbytes, bytes_of(tensor, key))
        _add_record(archive, f"{name}/version", 2, [b"3\n"])


def _add_record(archive: zipfile.ZipFile, name: str, size: int, data: Iterable[Any]) -> None:
    info = zipfile.ZipInfo(name)
    large = size >= zipfile.ZIP64_LIMIT
    header = 30 + len(name.encode()) + 4 + (_ZIP64_FIELD_BYTES if large else 0)
    padding = -(archive.fp.tell() + header) % _ALIGNMENT
    info.extra = struct.pack("<HH", _PADDING_ID, padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as record:
        for part in data:
            record.write(part)


def _pickled_index(tensors: Mapping[str, LazyTensor]) -> bytes:
    """The pickle of {name: tensor}, opcode by opcode: pickling for real would need torch's own objects."""
    storage_names = {dtype: name for name, dtype in STORAGE_DTYPES.items()}
    out = [pickle.PROTO, b"\x02", pickle.EMPTY_DICT, pickle.MARK]
    for number, (key, tensor) in enumerate(tensors.items()):
        strides = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
        storage = [
            pickle.MARK,
            _plain("storage"),
            _global("torch", storage_names[tensor.dtype]),
            _plain(str(number)),
            _plain("cpu"),
            _plain(math.prod(tensor.shape)),
            pickle.TUPLE,
            pickle.BINPERSID,
        ]
        arguments = [*storage, _plain(0), _plain(tensor.shape), _plain(strides), _plain(False)]
        hooks = [_global("collections", "OrderedDict"), pickle.EMPTY_TUPLE, pickle.REDUCE]
        rebuild = _global("torch._utils", "_rebuild_tensor_v2")
        out += [_plain(key), rebuild, pickle.MARK, *arguments, *hooks, pickle.TUPLE, pickle.REDUCE]
    out += [pickle.SETITEMS, pickle.STOP]
    return b"".join(out)


def _plain(value: str | int | bool | tuple[int, ...]) -> bytes:
    """The opcodes that put a value on the stack: its pickle without the first PROTO and the last STOP."""
    return pickle.dumps(value, protocol=2)[2:-1]


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()
