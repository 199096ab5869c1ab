"""Tensors that stay on disk until somebody needs them: the common currency of readers, tables and writers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np

# What weights are made of. numpy does not count ml_dtypes' among its kinds of floats.
FLOATS = tuple(map(np.dtype, (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)))
_BLOCK = 2**17  # elements: they and their bits stay in the cache
_TILE = 512  # rows and columns: 1 MiB of float32 on either side


class CheckpointError(ValueError):
    """A checkpoint that is damaged, of another layout, or refused; the one-line message names the file."""


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """Shape and dtype of a tensor, and how to get its values.

    `read()` returns an array of exactly this shape and dtype. It may be a read-only view of a memory-mapped
    file, and it is called again for every use: nothing is cached.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def chunks(self) -> Iterator[np.ndarray]:
        """Arrays whose elements, one chunk after the other in C order, are this tensor."""
        yield self.read()

    def rows(self) -> list[LazyTensor]:
        """The slices along axis 0, each lazy by itself."""
        return [_row(self, i) for i in range(self.shape[0])]

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
        """`function` of this tensor, computed when read; it may only move elements, not change the dtype.

        The new shape is found by running `function` on a zero that is broadcast to this shape and takes no
        memory.
        """
        phantom = np.broadcast_to(np.zeros((), np.uint8), self.shape)
        return LazyTensor(function(phantom).shape, self.dtype, lambda: function(self.read()))

    def astype(self, dtype: np.dtype) -> LazyTensor:
        """The same values rounded to `dtype`."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: self.read().astype(dtype))


class Weights(dict[str, LazyTensor]):
    """The tensors of a checkpoint by name; `report` says in words what of several was read, and what was left out."""

    def __init__(self, tensors: Mapping[str, LazyTensor], report: Sequence[str] = ()):
        super().__init__(tensors)
        self.report = tuple(report)


@dataclasses.dataclass(frozen=True)
class StackedTensor(LazyTensor):
    """Equal tensors stacked on a new axis 0; read and written one part at a time."""

    parts: tuple[LazyTensor, ...] = ()

    def chunks(self) -> Iterator[np.ndarray]:
        for part in self.parts:
            yield from part.chunks()

    def rows(self) -> list[LazyTensor]:
        return list(self.parts)

    def astype(self, dtype: np.dtype) -> LazyTensor:
        return stack([part.astype(dtype) for part in self.parts])


def stack(parts: Sequence[LazyTensor]) -> StackedTensor:
    """Stacks tensors of one shape and dtype on a new axis 0; ValueError where they differ."""
    first = parts[0]
    for part in parts:
        if (part.shape, part.dtype) != (first.shape, first.dtype):
            raise ValueError(f"one is {first.dtype} {list(first.shape)}, another {part.dtype} {list(part.shape)}")
    shape = (len(parts), *first.shape)

    def read() -> np.ndarray:
        out = np.empty(shape, first.dtype)
        for target, part in zip(as_bits(out), parts, strict=True):
            target[...] = as_bits(part.read())
        return out

    return StackedTensor(shape, first.dtype, read, tuple(parts))


def from_array(array: np.ndarray) -> LazyTensor:
    """Wraps an array that is already in memory (or is a view of a mapped file)."""
    return LazyTensor(tuple(array.shape), np.dtype(array.dtype), lambda: np.asarray(array))


def as_bits(array: np.ndarray) -> np.ndarray:
    """A view as unsigned integers of the same width: numpy copies those many times faster than bfloat16."""
    return array.view(np.dtype(f"u{array.dtype.itemsize}"))


def raw_bytes(array: np.ndarray) -> Iterator[memoryview]:
    """The bytes of `array` in C order, in parts; each part is valid until the next one is asked for.

    A transposed matrix is copied band by band into one small buffer, in tiles of which both sides stay in the cache:
    that takes no memory worth mentioning and is faster than one large copy.
    """
    bits = as_bits(array)
    if bits.flags.c_contiguous or bits.ndim != 2:
        yield memoryview(np.ascontiguousarray(bits).reshape(-1).view(np.uint8))
        return
    buffer = np.empty((_TILE, bits.shape[1]), bits.dtype)
    for start in range(0, bits.shape[0], _TILE):
        band = bits[start : start + _TILE]
        for column in range(0, bits.shape[1], _TILE):
            columns = slice(column, column + _TILE)
            buffer[: len(band), columns] = band[:, columns]
        yield memoryview(buffer[: len(band)].reshape(-1).view(np.uint8))


def _row(tensor: LazyTensor, index: int) -> LazyTensor:
    return LazyTensor(tensor.shape[1:], tensor.dtype, lambda: tensor.read()[index])


def has_non_finite(data: memoryview, dtype: np.dtype) -> bool:
    """Whether the bytes of an array of one of `FLOATS` hold NaN or infinity, whose exponents are all ones."""
    bits = np.frombuffer(data, f"u{dtype.itemsize}")
    magnitude = bits.dtype.type(2 ** (8 * dtype.itemsize - 1) - 1)  # all but the sign
    infinity = np.array(np.inf, dtype).view(bits.dtype)
    blocks = (bits[start : start + _BLOCK] for start in range(0, len(bits), _BLOCK))
    return any((block & magnitude).max() >= infinity for block in blocks)
