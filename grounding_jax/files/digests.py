"""Digests: what is kept for later says what it was made of, so that it is never taken for something else's."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from etils import epath

from grounding_jax.files.regular import File, PackedFile

_BLOCK = 1 << 24  # bytes that are read at once
_LENGTH = 16  # hexadecimal digits of a digest that people see


def of_file(file: File) -> str:
    """The SHA-256 of what is in a file, or in all files of a folder, in hex.

    Raises FileNotFoundError if there is no such file.
    """
    if isinstance(file, PackedFile):
        return hashlib.sha256(file.data).hexdigest()
    if not file.exists():
        raise FileNotFoundError(f"a file is missing: {file}")
    if file.is_dir():
        return of_value([[str(path.relative_to(file)), of_file(path)] for path in files_below(file)])
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for block in iter(functools.partial(stream.read, _BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def files_below(folder: epath.Path) -> list[epath.Path]:
    """All files in a folder and in those below it, by their names."""
    inside = sorted(folder.iterdir(), key=str)
    return [file for path in inside for file in (files_below(path) if path.is_dir() else [path])]


def of_value(value: Any) -> str:
    """The SHA-256 of a value, in hex: plain data, dataclasses, arrays, and files by what is in them.

    Raises TypeError for anything else, FileNotFoundError if a file is missing.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=_plain).encode()).hexdigest()


def of_all(digests: list[str]) -> str:
    """A short digest of several, in their order."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:_LENGTH]


@functools.cache
def of_code(*modules: ModuleType) -> str:
    """A short digest of the sources of modules; of a package, of all that lies in it."""
    digest = hashlib.sha256()
    for module in modules:
        place = pathlib.Path(module.__file__)
        for file in sorted(place.parent.rglob("*.py")) if hasattr(module, "__path__") else [place]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:_LENGTH]


def _plain(value: Any) -> Any:
    """Something that JSON does not know in terms of what it knows."""
    if isinstance(value, PackedFile | epath.Path):
        return [str(value), of_file(value)]
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "__struct_fields__"):  # msgspec's
        return {name: getattr(value, name) for name in value.__struct_fields__}
    if isinstance(value, np.ndarray | np.generic):
        return [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()]
    if isinstance(value, bytes | msgspec.Raw):
        return bytes(value).hex()
    raise TypeError(f"{type(value).__name__} has no digest")
