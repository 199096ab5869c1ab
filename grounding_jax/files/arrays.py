"""Arrays in files of NumPy's format, without objects, which could be anything."""

import numpy as np
from etils import epath

from grounding_jax.files.regular import open_regular
from grounding_jax.files.writing import replaced


def read_array(file: epath.PathLike) -> np.ndarray:
    """Reads an array; raises FileNotFoundError if there is no such file, ValueError if it holds none."""
    with open_regular(file) as stream:
        try:
            return np.load(stream, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise ValueError(f"cannot read the array {file}: {error}") from error


def write_array(file: epath.PathLike, array: np.ndarray) -> None:
    """Writes an array at once: readers find none or all of it."""
    with replaced(file) as scratch, scratch.open("wb") as stream:
        np.save(stream, array)
