"""Folding LoRA into the kernels of a checkpoint, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping

from grounding_jax.models.lora import merge
from grounding_jax.weights.tensors import LazyTensor, stack

_A, _B, _KERNEL = "/lora_a", "/lora_b", "/kernel"


def has_lora(leaves: Mapping[str, LazyTensor]) -> bool:
    """Whether any kernel has an adapter beside it."""
    return any(path.endswith(_A) for path in leaves)


def merged(leaves: Mapping[str, LazyTensor], scale: float) -> dict[str, LazyTensor]:
    """Leaves without adapters, each adapted kernel being `W + scale * A B` in the dtype of W (spec gsva a.6).

    Adapted kernels are stacked `[L, in, out]`; one layer is in memory at a time.
    """
    out = {}
    for path, leaf in leaves.items():
        if path.endswith((_A, _B)):
            continue
        stem = path.removesuffix(_KERNEL)
        adapters = leaves.get(stem + _A), leaves.get(stem + _B)
        out[path] = leaf if None in adapters else _merged_kernel(leaf, *adapters, scale)
    return out


def _merged_kernel(kernel: LazyTensor, lora_a: LazyTensor, lora_b: LazyTensor, scale: float) -> LazyTensor:
    layers = zip(kernel.rows(), lora_a.rows(), lora_b.rows(), strict=True)
    return stack([_merged_layer(w, a, b, scale) for w, a, b in layers])


def _merged_layer(kernel: LazyTensor, lora_a: LazyTensor, lora_b: LazyTensor, scale: float) -> LazyTensor:
    return LazyTensor(kernel.shape, kernel.dtype, lambda: merge(kernel.read(), lora_a.read(), lora_b.read(), scale))
