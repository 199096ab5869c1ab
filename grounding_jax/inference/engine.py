"""A model in memory that is asked: everything that answering needs, for any model that talks about pictures."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grounding_jax.language.batching import Batcher
from grounding_jax.language.conversation import Template
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.sharding.mesh import num_rows, split_batch

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """A model in memory.

    Attributes:
        config: sizes, among them ``clip`` and ``model_max_length``.
        params: nested dict of arrays.
        tokenizer: the vocabulary.
        template: wording of its conversations.
        dtype: dtype of the computation.
        mesh: the devices that the parameters are spread over; None where all is on one. Batches are then split over
            ``data`` and ``fsdp``, and padded with their first row where they don't divide.
    """

    config: Any
    params: dict
    tokenizer: Tokenizer
    template: Template
    dtype: Any = jnp.float32
    mesh: Mesh | None = None

    @functools.cached_property
    def batcher(self) -> Batcher:
        """Makes rows of conversations."""
        config, rows = self.config, num_rows(self.mesh)
        return Batcher(self.tokenizer, self.template, config.clip.num_patches, config.model_max_length, rows)

    def split(self, batch: _T) -> _T:
        """The arrays of a batch, split over the mesh."""
        return split_batch(self.mesh, batch)


def fetch(answers: jax.Array) -> np.ndarray:
    """Logits, scores or states of a model on the host; ValueError unless all are finite, before they mean something."""
    array = np.asarray(answers)
    if not np.isfinite(array.astype(np.float32, copy=False)).all():
        raise ValueError(
            f"the answers of this model are not finite (NaN or infinity, computed in {array.dtype}): its weights are "
            "damaged or from a training that diverged; take an earlier checkpoint"
        )
    return array
