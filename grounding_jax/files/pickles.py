"""Pickles of plain data, as REFER publishes its references; nothing in them is executed."""

import io
import pickle
from typing import Any

from etils import epath

from grounding_jax.files.regular import LARGEST, read_bytes


def read_plain_pickle(file: epath.PathLike, max_bytes: int = LARGEST) -> Any:
    """Reads a pickle of numbers, texts, lists and dicts; byte strings of Python 2 are taken as UTF-8.

    Raises FileNotFoundError if it is not there, ValueError if it is damaged or would run code, none of which
    has run then.
    """
    data = read_bytes(file, max_bytes)
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
