"""Bytes of checkpoint files, memory-mapped where they are local, and tensors that lie in them."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Sequence

import numpy as np
from etils import epath

from grounding_jax.files.regular import check_regular, open_regular
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

_MOST_AXES = 32  # of an array of NumPy 1 and of torch's own; weights have at most four


class FileBytes:
    """Random access to one file. Local files are mapped (no anonymous memory); others are read in ranges."""

    def __init__(self, path: epath.PathLike):
        """Raises FileNotFoundError when there is no such file and CheckpointError when it is empty."""
        self.path = check_regular(path)
        self.size = self.path.stat().length
        if self.size == 0:
            raise CheckpointError(f"{self.path}: the file is empty (0 bytes)")

    @functools.cached_property
    def _map(self) -> np.ndarray | None:
        local = "://" not in os.fspath(self.path)
        return np.asarray(np.memmap(os.fspath(self.path), np.uint8, mode="r")) if local else None

    def read(self, offset: int, length: int) -> np.ndarray:
        """uint8[length] from `offset`; CheckpointError when that is not inside of the file."""
        if min(offset, length) < 0:
            raise CheckpointError(f"{self.path}: damaged, it points before its beginning")
        if offset + length > self.size:
            raise CheckpointError(
                f"{self.path}: truncated, needs at least {offset + length:,} bytes and has {self.size:,}"
            )
        if self._map is not None:
            return self._map[offset : offset + length]
        with open_regular(self.path) as file:
            file.seek(offset)
            return np.frombuffer(file.read(length), np.uint8)


@dataclasses.dataclass(frozen=True)
class FileTensor(LazyTensor):
    """A tensor inside a file, so that a slice of it can be read without the rest."""

    source: FileBytes | None = None
    offset: int = 0
    strides: tuple[int, ...] = ()

    def rows(self) -> list[LazyTensor]:
        starts = (self.offset + i * self.strides[0] for i in range(self.shape[0]))
        return [file_tensor(self.source, start, self.shape[1:], self.dtype, self.strides[1:]) for start in starts]


def file_tensor(
    source: FileBytes,
    offset: int,
    shape: Sequence[int],
    dtype: np.dtype,
    strides: Sequence[int] | None = None,
) -> FileTensor:
    """A tensor at byte `offset` of `source`; `strides` in bytes, C order when None.

    Raises CheckpointError when these are no numbers of a tensor, or when it reaches beyond the file.
    """
    shape = tuple(shape)
    if not all(type(size) is int for size in shape) or len(shape) > _MOST_AXES or math.prod(shape) > source.size:
        raise CheckpointError(f"{source.path}: damaged, a tensor can't have these sizes, or is larger than the file")
    if strides is None:
        strides = tuple(dtype.itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    if not all(type(number) is int and 0 <= number < 2**62 for number in (offset, *shape, *strides)):
        raise CheckpointError(f"{source.path}: damaged, a tensor with a size, stride or offset that can't be")
    last = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    span = last + dtype.itemsize if math.prod(shape) else 0
    if offset + span > source.size:
        raise CheckpointError(
            f"{source.path}: truncated, needs at least {offset + span:,} bytes and has {source.size:,}"
        )

    def read() -> np.ndarray:
        return np.ndarray(shape, dtype, buffer=source.read(offset, span), strides=strides)

    return FileTensor(shape, dtype, read, source, offset, tuple(strides))
