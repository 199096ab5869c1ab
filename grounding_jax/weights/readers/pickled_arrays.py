"""NumPy arrays inside a pickle, as detectron2 stores its models (`.pkl`), read without NumPy's own unpickling.

A pickled array calls a few functions of NumPy. Each has a stand-in here that knows nothing but plain numbers and their
bytes: NumPy's own would make an array of any size, or of Python objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from grounding_jax.weights.tensors import LazyTensor, from_array

_CODES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "b1")


def _quoted(found: object) -> str:
    """What was found where there should be a short text; written out, anything else could be of any length."""
    return repr(found[:20]) if isinstance(found, str) else f"a {type(found).__name__}"


class _Dtype:
    """Stands in for numpy.dtype."""

    def __init__(self, code: str, *unused: object):
        if not isinstance(code, str) or code not in _CODES:
            raise ValueError(f"an array of {_quoted(code)}, known are {', '.join(_CODES)}")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", "|"):
            raise ValueError(f"an array in byte order {_quoted(state[1])}, expected little-endian")


class PickledArray:
    """Stands in for numpy.ndarray; `tensor` holds what was read."""

    tensor: LazyTensor | None = None

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, data = state
        self.fill(data, dtype, shape, "F" if is_fortran else "C")

    def fill(self, data: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: str) -> None:
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError("an array whose sizes are none")
        needed = math.prod(shape) * dtype.value.itemsize
        if not isinstance(data, bytes | bytearray) or len(data) != needed:
            raise ValueError(f"an array {shape} of {dtype.value} without its {needed:,} bytes")
        self.tensor = from_array(np.frombuffer(bytes(data), dtype.value).reshape(shape, order=order))


def _reconstruct(*unused: object) -> PickledArray:
    """Stands in for numpy._core.multiarray._reconstruct, which makes an empty array for `__setstate__`."""
    return PickledArray()


def _frombuffer(data: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], order: str) -> PickledArray:
    """Stands in for numpy._core.numeric._frombuffer, of protocol 5."""
    array = PickledArray()
    array.fill(data, dtype, shape, order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Stands in for _codecs.encode, which protocol 2 needs for bytes."""
    if encoding != "latin1":
        raise ValueError("bytes in another encoding than latin1")
    return text.encode("latin1")


# By module and name; before NumPy 2 its core had no underscore.
STAND_INS: dict[tuple[str, str], Callable] = {
    ("numpy", "ndarray"): PickledArray,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}
