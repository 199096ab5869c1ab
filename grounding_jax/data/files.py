"""Readers of the files that datasets consist of; a missing or damaged one is named in one line."""

import dataclasses
import io
import json
import pickle
from typing import Any

from etils import epath


@dataclasses.dataclass(frozen=True)
class PackedFile:
    """A file out of a shard: its bytes, and what else records and errors want to know of a file.

    Attributes:
        path: where it was, from the root of the datasets.
        data: what was in it.
    """

    path: epath.Path
    data: bytes

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.path.stem

    def with_suffix(self, suffix: str) -> epath.Path:
        """The path with another ending."""
        return self.path.with_suffix(suffix)


# A picture or label map of a record: in a folder, or packed.
File = epath.Path | PackedFile


def read_bytes(file: epath.Path) -> bytes:
    """The bytes of a dataset's file; raises FileNotFoundError if it is not there."""
    if not file.exists():
        raise FileNotFoundError(f"a file of the dataset is missing: {file}")
    return file.read_bytes()


def read_json(file: epath.Path, fallback_encoding: str = "utf-8") -> Any:
    """Parses a JSON file.

    Args:
        file: the file.
        fallback_encoding: what to read the text as where it is not UTF-8.

    Raises FileNotFoundError if it is not there, ValueError if it is not JSON.
    """
    return parse_json(read_bytes(file), str(file), fallback_encoding)


def parse_json(data: bytes, name: str, fallback_encoding: str = "utf-8") -> Any:
    """`read_json` of what was read already, from the file of that name."""
    try:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode(fallback_encoding)
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from error


def read_plain_pickle(file: epath.Path) -> Any:
    """Reads a pickle of numbers, texts, lists and dicts; byte strings of Python 2 are taken as UTF-8.

    Raises FileNotFoundError if it is not there, ValueError if it is damaged or would run code, none of which
    has run then.
    """
    data = read_bytes(file)
    try:
        return _PlainUnpickler(io.BytesIO(data), encoding="utf-8").load()
    except _PICKLE_ERRORS as error:
        raise ValueError(f"cannot read the pickle {file}: {error}") from error


# What unpickling damaged data raises: the interpreter of the format executes whatever it is given.
_PICKLE_ERRORS = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler without access to any class or function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, but only plain data is read")
