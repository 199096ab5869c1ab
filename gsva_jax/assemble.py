"""What LLaVA, CLIP and SAM do not bring to a new GSVA: rows of tokens, and the MLP to SAM's prompts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grounding_jax.weights.fresh import INITIALIZER_RANGE, generator, linear
from grounding_jax.weights.tensors import LazyTensor


def moved_vocabulary(params: dict, rows: Sequence[int], seed: int = 0) -> dict:
    """LLaMA's parameters for another vocabulary: ``rows`` are the old ids of its tokens, -1 for what is new.

    New rows are drawn as `fresh.normal_rows` does.
    """
    rows = np.asarray(rows)
    new = np.flatnonzero(rows < 0)
    embedding, kernel = params["embed"]["embedding"][rows], params["head"]["kernel"][:, rows]
    for path, array in (("llama/embed/embedding", embedding), ("llama/head/kernel", kernel.T)):
        array[new] = generator(seed, path)().normal(0.0, INITIALIZER_RANGE, (len(new), array.shape[1]))
    return {**params, "embed": {"embedding": embedding}, "head": {"kernel": kernel}}


def fresh_prompt_mlp(width: int, prompt_width: int, seed: int) -> dict[str, LazyTensor]:
    """The MLP from the language model to SAM's prompts in float32, drawn as PyTorch draws a linear layer."""
    return linear("prompt_mlp/fc1", width, width, seed) | linear("prompt_mlp/fc2", width, prompt_width, seed)
