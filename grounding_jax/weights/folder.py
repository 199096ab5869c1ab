"""Our model folder: safetensors shards under our paths, config.json and tokenizer.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from etils import epath
from flax import traverse_util

from grounding_jax.files import configs, digests
from grounding_jax.files.writing import write_text
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.readers.json_reader import read_json
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, from_array
from grounding_jax.weights.writers import Progress, write_safetensors

T = TypeVar("T")
CONFIG_FILE = "config.json"
_INDEX_FILE = "model.safetensors.index.json"


def check_free(folder: epath.PathLike) -> None:
    """Raises CheckpointError when `folder` can't become a new model folder: a model is there, or a file."""
    folder = epath.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder}: is a file; give a folder to write the model to")
    if (folder / CONFIG_FILE).exists():
        raise CheckpointError(f"{folder}: already holds a model; remove it or choose another folder")


def save(
    folder: epath.PathLike,
    leaves: Mapping[str, LazyTensor],
    config: str,
    save_tokenizer: Callable[[epath.Path], Any] | None = None,
    progress: Progress | None = None,
) -> list[str]:
    """Writes a model folder, one leaf at a time, every leaf in its own dtype.

    `config` is the text of config.json, which is written last: a folder without it is an interrupted write. Returns the
    paths of leaves that hold NaN or infinity.
    """
    check_free(folder)
    folder = epath.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    non_finite = write_safetensors(folder, leaves, progress)
    if save_tokenizer is not None:
        save_tokenizer(folder)
    write_text(folder / CONFIG_FILE, config)  # the last one: with it, the folder is complete
    return non_finite


def open_folder(folder: epath.PathLike) -> dict[str, LazyTensor]:
    """The leaves of a model folder by path, not read yet. Raises FileNotFoundError or CheckpointError."""
    folder = epath.Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such model folder")
    if not (folder / CONFIG_FILE).is_file() or not (folder / _INDEX_FILE).is_file():
        raise CheckpointError(f"{folder}: not a complete model folder, needs {CONFIG_FILE} and {_INDEX_FILE}")
    return open_weights(folder / _INDEX_FILE)


def read_config(config: type[T], folder: epath.PathLike) -> T:
    """The config.json of a model folder; FileNotFoundError, or CheckpointError that names the value that is wrong."""
    file = epath.Path(folder) / CONFIG_FILE
    try:
        return configs.build(config, read_json(file), str(file))
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def load(folder: epath.PathLike, dtype: np.dtype | None = None) -> dict:
    """The parameters of a model folder as nested dicts of arrays.

    With `dtype` None every leaf has the dtype it was saved in and is a read-only view of the mapped file;
    otherwise all leaves are in memory in `dtype`.
    """
    return to_params(open_folder(folder), dtype)


def to_params(leaves: Mapping[str, LazyTensor], dtype: np.dtype | None = None) -> dict:
    """Reads leaves into nested dicts, all cast to `dtype` when one is given."""
    arrays = {path: (leaf if dtype is None else leaf.astype(dtype)).read() for path, leaf in leaves.items()}
    return traverse_util.unflatten_dict(arrays, sep="/")


def from_params(params: Mapping) -> dict[str, LazyTensor]:
    """The inverse of `to_params`, for saving: nested dicts of numpy or jax arrays as leaves by path."""
    flat = traverse_util.flatten_dict(params, sep="/")
    return {path: from_array(np.asarray(array)) for path, array in flat.items()}


def read_public(folder: epath.PathLike) -> dict:
    """The config.json of a published folder; {} where there is none, as for a file."""
    file = epath.Path(folder) / CONFIG_FILE
    return read_json(file) if file.exists() else {}


def digest(folder: epath.PathLike) -> str:
    """Tells model folders apart: of every byte of their configs, vocabularies and weights."""
    files = sorted(file for file in epath.Path(folder).iterdir() if file.suffix in (".json", ".safetensors"))
    return digests.of_all([f"{file.name} {digests.of_file(file)}" for file in files])
