"""What published checkpoints do not bring to a new model: token rows, LoRA, layers, and parts that `init` draws.

All of it but `moved_vocabulary` is lazy, and a leaf is the same however often and in whatever order leaves are read.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from grounding_jax.weights.tensors import LazyTensor

INITIALIZER_RANGE = 0.02  # of LLaMA's config: the deviation of new token rows
LORA_RANK = 8  # of new adapters (spec gsva a.6, gella c)
_FLOAT32 = np.dtype(np.float32)
_LORA_TARGETS = ("q", "v")
_TOKEN_AXES = {"llama/embed/embedding": 0, "llama/head/kernel": 1}

# Makes new token rows: (path of the leaf, the rows that are kept, the axis they lie on, shape of the new ones).
Draw = Callable[[str, np.ndarray, int, tuple[int, ...]], np.ndarray]


def resized_vocabulary(
    leaves: Mapping[str, LazyTensor], rows: Sequence[int], draw: Draw, how: str
) -> tuple[dict[str, LazyTensor], list[str]]:
    """Embedding and head for another vocabulary, and what was done, in words.

    Args:
        leaves: leaves of the whole model, or at least of its language model.
        rows: for each token the old id; -1, or one that the leaves have no row for, makes a new row.
        draw: makes new rows; they get the dtype of the old ones.
        how: says that in words.

    Returns:
        ``(leaves, report)``. Old rows that no token refers to are dropped.
    """
    rows, old = np.asarray(rows), leaves["llama/embed/embedding"].shape[0]
    rows = np.where(rows < old, rows, -1)
    new, kept = np.flatnonzero(rows < 0), rows[rows >= 0]
    if np.array_equal(rows, np.arange(old)):
        return dict(leaves), []
    out = dict(leaves)
    for path, axis in _TOKEN_AXES.items():
        out[path] = _with_rows(leaves[path], axis, kept, new, functools.partial(draw, path))
    report = [f"fresh: {len(new)} token rows of embedding and head, {how}"] if len(new) else []
    if old > len(kept):
        report.append(f"dropped: {old - len(kept)} token rows that the tokenizer does not use")
    return out, report


def num_zero_rows(leaves: Mapping[str, LazyTensor]) -> int:
    """How many token rows at the end are zeros in embedding and head: the padding of a vocabulary."""
    used = 0
    for path, axis in _TOKEN_AXES.items():
        nonzero = np.flatnonzero((leaves[path].read() != 0).any(1 - axis))
        used = max(used, nonzero[-1] + 1 if len(nonzero) else 0)
    return leaves["llama/embed/embedding"].shape[0] - used


def moved_vocabulary(params: dict, rows: Sequence[int]) -> dict:
    """LLaMA's parameters for another vocabulary: `rows` are the old ids of its tokens, -1 for what is new.

    These are arrays in memory, unlike the leaves of `resized_vocabulary`; new rows are from N(0, 0.02).
    """
    rows = np.asarray(rows)
    new = np.flatnonzero(rows < 0)
    embedding, kernel = params["embed"]["embedding"][rows], params["head"]["kernel"][:, rows]
    for path, array in (("llama/embed/embedding", embedding), ("llama/head/kernel", kernel.T)):
        array[new] = generator(0, path)().normal(0.0, INITIALIZER_RANGE, (len(new), array.shape[1]))
    return {**params, "embed": {"embedding": embedding}, "head": {"kernel": kernel}}


def normal_rows(seed: int) -> Draw:
    """New token rows from N(0, 0.02), as GSVA's release draws them (spec gsva a.5)."""
    return lambda path, kept, axis, shape: generator(seed, path)().normal(0.0, INITIALIZER_RANGE, shape)


def mean_rows(path: str, kept: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """New token rows that are the mean of the old ones (spec gella A9)."""
    return np.broadcast_to(kept.mean(axis, dtype=np.float64, keepdims=True), shape)


def zero_rows(path: str, kept: np.ndarray, axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """New token rows of zeros, for ids that are never looked at."""
    return np.zeros(shape)


def lora(leaves: Mapping[str, LazyTensor], rank: int, seed: int) -> dict[str, LazyTensor]:
    """Adapters of q and v in float32: A Kaiming-uniform, B zeros (spec gsva a.6); empty for rank 0."""
    out = {}
    for name in _LORA_TARGETS if rank else ():
        stem = f"llama/layers/attn/{name}"
        layers, width, features = leaves[f"{stem}/kernel"].shape
        out[f"{stem}/lora_a"] = _uniform(f"{stem}/lora_a", (layers, width, rank), width, seed)
        shape = (layers, rank, features)
        out[f"{stem}/lora_b"] = LazyTensor(shape, _FLOAT32, lambda shape=shape: np.zeros(shape, np.float32))
    return out


def linear(path: str, width: int, features: int, seed: int) -> dict[str, LazyTensor]:
    """A layer with bias in float32, drawn as PyTorch draws it."""
    return {
        f"{path}/kernel": _uniform(f"{path}/kernel", (width, features), width, seed),
        f"{path}/bias": _uniform(f"{path}/bias", (features,), width, seed),
    }


def drawn(init: Callable[[Any, jax.Array], dict], config: Any, seed: int, name: str) -> dict[str, LazyTensor]:
    """The leaves of a part of a model as its `init(config, key)` makes them; all are made when the first is read.

    `name` is that of the part: parts of one seed have different keys.
    """
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    draw = jax.jit(init, static_argnums=0)
    values = functools.cache(lambda: traverse_util.flatten_dict(jax.device_get(draw(config, key)), sep="/"))
    leaves = traverse_util.flatten_dict(jax.eval_shape(draw, config, key), sep="/")
    return {
        path: LazyTensor(leaf.shape, np.dtype(leaf.dtype), lambda path=path: values()[path])
        for path, leaf in leaves.items()
    }


def generator(seed: int, path: str) -> Callable[[], np.random.Generator]:
    """Makes the generator of a leaf, always in the same state."""
    return lambda: np.random.default_rng([seed, zlib.crc32(path.encode())])


def _with_rows(
    tensor: LazyTensor, axis: int, kept: np.ndarray, new: np.ndarray, draw: Callable[..., np.ndarray]
) -> LazyTensor:
    """`tensor` whose rows on `axis` are the `kept` ones of now, and `draw`n ones in the places `new`."""
    before, after = tensor.shape[:axis], tensor.shape[axis + 1 :]
    shape = (*before, len(kept) + len(new), *after)
    places = np.delete(np.arange(shape[axis]), new)

    def read() -> np.ndarray:
        old = np.take(tensor.read(), kept, axis=axis)
        out = np.empty(shape, tensor.dtype)
        rows = np.moveaxis(out, axis, 0)
        rows[places] = np.moveaxis(old, axis, 0)
        rows[new] = np.moveaxis(draw(old, axis, (*before, len(new), *after)), axis, 0)
        return out

    return LazyTensor(shape, tensor.dtype, read)


def _uniform(path: str, shape: tuple[int, ...], fan_in: int, seed: int) -> LazyTensor:
    """float32 in +-1/sqrt(fan_in), which is Kaiming-uniform with a = sqrt 5."""
    bound = 1.0 / math.sqrt(fan_in)
    make = generator(seed, path)
    return LazyTensor(shape, _FLOAT32, lambda: make().uniform(-bound, bound, shape).astype(np.float32))
