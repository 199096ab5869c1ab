"""A model with a language model in memory, as both systems have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from grounding_jax.language.batching import Batcher
from grounding_jax.language.conversation import Template
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.sharding.mesh import BATCH, num_rows

_T = TypeVar("_T")


def fetch(answers: jax.Array) -> np.ndarray:
    """Logits, scores or states of a model on the host; ValueError unless all are finite, before they mean something."""
    array = np.asarray(answers)
    if not np.isfinite(array.astype(np.float32, copy=False)).all():
        raise ValueError(
            f"the answers of this model are not finite (NaN or infinity, computed in {array.dtype}): its weights are "
            "damaged or from a training that diverged; take an earlier checkpoint"
        )
    return array


class Loaded:
    """A model in memory.

    Attributes:
        config: sizes, among them ``clip``, ``template`` and ``model_max_length``.
        params: nested dict of arrays.
        tokenizer: the vocabulary.
        dtype: dtype of the computation.
        mesh: the devices that the parameters are spread over; None where all is on one. Batches are then split over
            ``data`` and ``fsdp``, and filled up with their first row where they don't divide.
        batcher: makes rows of conversations.
        TEMPLATES: the conversation templates that a config may name.
    """

    TEMPLATES: ClassVar[Mapping[str, Template]]

    def __init__(self, config: Any, params: dict, tokenizer: Tokenizer, dtype=jnp.float32, mesh: Mesh | None = None):
        self.config, self.params, self.tokenizer, self.dtype, self.mesh = config, params, tokenizer, dtype, mesh
        self.batcher = Batcher(
            tokenizer,
            self.TEMPLATES[config.template],
            config.clip.num_patches,
            config.model_max_length,
            1 if mesh is None else num_rows(mesh),
        )

    def split(self, batch: _T) -> _T:
        """The arrays of a batch, split over the mesh."""
        return batch if self.mesh is None else jax.device_put(batch, NamedSharding(self.mesh, BATCH))
