"""What LLaVA, CLIP and SAM do not bring to a new GSVA: token rows, LoRA, and the MLP to SAM's prompts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from grounding_jax.weights.tensors import LazyTensor

_INITIALIZER_RANGE = 0.02  # of LLaMA's config: the deviation of new token rows
_FLOAT32 = np.dtype(np.float32)
_LORA_TARGETS = ("q", "v")


def resized_vocabulary(
    leaves: Mapping[str, LazyTensor], vocab_size: int, seed: int
) -> tuple[dict[str, LazyTensor], list[str]]:
    """Embedding and head with `vocab_size` token rows, and what was done, in words.

    New rows are drawn from N(0, 0.02) as the release does (spec gsva a.5), in the dtype of the old ones. Rows
    beyond `vocab_size`, which no token of the tokenizer refers to, are dropped.
    """
    axes = {"llama/embed/embedding": 0, "llama/head/kernel": 1}
    old = leaves["llama/embed/embedding"].shape[0]
    out = dict(leaves)
    for path, axis in axes.items():
        out[path] = _resized(leaves[path], axis, vocab_size, _generator(seed, path))
    if vocab_size > old:
        return out, [f"fresh: {vocab_size - old} token rows of embedding and head, from N(0, {_INITIALIZER_RANGE})"]
    if vocab_size < old:
        return out, [f"dropped: {old - vocab_size} token rows that the tokenizer does not use"]
    return out, []


def moved_vocabulary(params: dict, rows: Sequence[int], seed: int = 0) -> dict:
    """LLaMA's parameters for another vocabulary: ``rows`` are the old ids of its tokens, -1 for what is new.

    New rows are drawn as in `resized_vocabulary`.
    """
    rows = np.asarray(rows)
    new = np.flatnonzero(rows < 0)
    embedding, kernel = params["embed"]["embedding"][rows], params["head"]["kernel"][:, rows]
    for path, array in (("llama/embed/embedding", embedding), ("llama/head/kernel", kernel.T)):
        array[new] = _generator(seed, path)().normal(0.0, _INITIALIZER_RANGE, (len(new), array.shape[1]))
    return {**params, "embed": {"embedding": embedding}, "head": {"kernel": kernel}}


def fresh_lora(leaves: Mapping[str, LazyTensor], rank: int, seed: int) -> dict[str, LazyTensor]:
    """Adapters of q and v in float32: A Kaiming-uniform, B zeros (spec gsva a.6); empty for rank 0."""
    out = {}
    for name in _LORA_TARGETS if rank else ():
        stem = f"llama/layers/attn/{name}"
        layers, width, features = leaves[f"{stem}/kernel"].shape
        out[f"{stem}/lora_a"] = _uniform(f"{stem}/lora_a", (layers, width, rank), width, seed)
        shape = (layers, rank, features)
        out[f"{stem}/lora_b"] = LazyTensor(shape, _FLOAT32, lambda shape=shape: np.zeros(shape, np.float32))
    return out


def fresh_prompt_mlp(width: int, prompt_width: int, seed: int) -> dict[str, LazyTensor]:
    """The MLP from the language model to SAM's prompts in float32, drawn as PyTorch draws a linear layer."""
    out = {}
    for name, features in (("fc1", width), ("fc2", prompt_width)):
        stem = f"prompt_mlp/{name}"
        out[f"{stem}/kernel"] = _uniform(f"{stem}/kernel", (width, features), width, seed)
        out[f"{stem}/bias"] = _uniform(f"{stem}/bias", (features,), width, seed)
    return out


def _resized(tensor: LazyTensor, axis: int, size: int, generator: Callable[[], np.random.Generator]) -> LazyTensor:
    shape = tuple(size if i == axis else n for i, n in enumerate(tensor.shape))
    if shape == tensor.shape:
        return tensor

    def read() -> np.ndarray:
        kept = np.take(tensor.read(), range(min(size, tensor.shape[axis])), axis=axis)
        new = shape[:axis] + (size - kept.shape[axis],) + shape[axis + 1 :]
        fresh = generator().normal(0.0, _INITIALIZER_RANGE, new).astype(tensor.dtype)
        return np.concatenate([kept, fresh], axis=axis)

    return LazyTensor(shape, tensor.dtype, read)


def _uniform(path: str, shape: tuple[int, ...], fan_in: int, seed: int) -> LazyTensor:
    """float32 in +-1/sqrt(fan_in), which is Kaiming-uniform with a = sqrt 5."""
    bound = 1.0 / math.sqrt(fan_in)
    generator = _generator(seed, path)
    return LazyTensor(shape, _FLOAT32, lambda: generator().uniform(-bound, bound, shape).astype(np.float32))


def _generator(seed: int, path: str) -> Callable[[], np.random.Generator]:
    """Every leaf has its own generator: it is the same however often and in whatever order it is read."""
    return lambda: np.random.default_rng([seed, zlib.crc32(path.encode())])
