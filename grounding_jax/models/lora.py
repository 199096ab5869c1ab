"""Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685): what it adds to a kernel, and how it is folded in.

The adapted layer itself is `layers.Linear` with a positive ``lora_rank``: y = x W + (alpha / R) x A B.
"""

from __future__ import annotations

import numpy as np


def merge(kernel: np.ndarray, lora_a: np.ndarray, lora_b: np.ndarray, scale: float) -> np.ndarray:
    """Folds an update into its kernel: ``W + scale * A B``, computed in float32.

    Args:
        kernel: ``[..., D, F]``, any float dtype; leading axes are stacked layers.
        lora_a: ``[..., D, R]``.
        lora_b: ``[..., R, F]``.
        scale: alpha / R.

    Returns:
        ``[..., D, F]`` in the dtype of ``kernel``. The rounding to that dtype cannot be undone: to train on after
        merging, keep the kernel that was merged.
    """
    update = scale * (lora_a.astype(np.float32) @ lora_b.astype(np.float32))
    return (kernel.astype(np.float32) + update).astype(kernel.dtype)


def merge_tree(params: dict, scale: float) -> dict:
    """Folds every ``lora_a``/``lora_b`` of a nested parameter dict into the ``kernel`` beside it and drops them."""
    if "lora_a" in params:
        rest = {name: leaf for name, leaf in params.items() if name not in ("lora_a", "lora_b")}
        return {**rest, "kernel": merge(params["kernel"], params["lora_a"], params["lora_b"], scale)}
    return {name: merge_tree(leaf, scale) if isinstance(leaf, dict) else leaf for name, leaf in params.items()}
