"""Named, invertible ways to rearrange a tensor between the torch layout and ours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Transform:
    """Both directions of one rearrangement; `to_torch` undoes `to_ours` bit for bit."""

    name: str
    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


def _same(array: np.ndarray) -> np.ndarray:
    return array


def _transpose(array: np.ndarray) -> np.ndarray:
    rows, columns = range(array.ndim)
    return array.transpose(columns, rows)


def _drop_leading_one(array: np.ndarray) -> np.ndarray:
    return array.reshape(array.shape[1:])


def _add_leading_one(array: np.ndarray) -> np.ndarray:
    return array[None]


def _oihw_to_hwio(array: np.ndarray) -> np.ndarray:
    return array.transpose(2, 3, 1, 0)


def _hwio_to_oihw(array: np.ndarray) -> np.ndarray:
    return array.transpose(3, 2, 0, 1)


def _oihw_to_matrix(array: np.ndarray) -> np.ndarray:
    hwio = _oihw_to_hwio(array)
    return hwio.reshape(-1, hwio.shape[-1])


def _rgb_matrix_to_oihw(matrix: np.ndarray) -> np.ndarray:
    side = math.isqrt(matrix.shape[0] // 3)
    return _hwio_to_oihw(matrix.reshape(side, side, 3, matrix.shape[1]))


def _two_by_two_matrix_to_oihw(matrix: np.ndarray) -> np.ndarray:
    return _hwio_to_oihw(matrix.reshape(2, 2, -1, matrix.shape[1]))


def _one_by_one_matrix_to_oihw(matrix: np.ndarray) -> np.ndarray:
    return _hwio_to_oihw(matrix[None, None])


def _iohw_to_matrix(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1).reshape(array.shape[0], -1)


def _two_by_two_matrix_to_iohw(matrix: np.ndarray) -> np.ndarray:
    return matrix.reshape(matrix.shape[0], 2, 2, -1).transpose(0, 3, 1, 2)


IDENTITY = Transform("identity", _same, _same)
LINEAR = Transform("linear [out, in] <-> [in, out]", _transpose, _transpose)
SQUEEZE = Transform("squeeze [1, ...] <-> [...]", _drop_leading_one, _add_leading_one)
CONV = Transform("convolution [out, in, h, w] <-> [h, w, in, out]", _oihw_to_hwio, _hwio_to_oihw)
PATCH = Transform("patch kernel [out, 3, p, p] <-> [p*p*3, out]", _oihw_to_matrix, _rgb_matrix_to_oihw)
CONV_1X1 = Transform("1x1 convolution [out, in, 1, 1] <-> [in, out]", _oihw_to_matrix, _one_by_one_matrix_to_oihw)
CONV_2X2 = Transform("2x2 convolution [out, in, 2, 2] <-> [4*in, out]", _oihw_to_matrix, _two_by_two_matrix_to_oihw)
UPCONV_2X2 = Transform(
    "2x2 transposed convolution [in, out, 2, 2] <-> [in, 4*out]", _iohw_to_matrix, _two_by_two_matrix_to_iohw
)
