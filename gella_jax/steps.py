"""The compiled steps of prediction: encode a picture, segment its entities, prefill a row, associate.

Each is a jitted pure function of (config, parameters, arrays).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from gella_jax import matching, model
from gella_jax.config import GellaConfig
from gella_jax.matching import SegmentationWeights
from grounding_jax.language.rows import Row
from grounding_jax.models import llava
from grounding_jax.models.mask2former import Prediction
from grounding_jax.sharding.mesh import BATCH


@functools.partial(jax.jit, static_argnames=("config", "dtype", "mesh"))
def encode_image(
    config: GellaConfig, params: dict, images: jax.Array, resized: jax.Array, dtype, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """CLIP, once a picture: ``([B, P, C] for the masks, [B, P, D] for the language model)``."""
    features = model.encode_image(config, params, images, resized, dtype)
    encoded = features, model.project(config, params, features)
    return encoded if mesh is None else jax.lax.with_sharding_constraint(encoded, NamedSharding(mesh, BATCH))


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def segment_entities(
    config: GellaConfig, params: dict, features: jax.Array | None, colormaps: jax.Array, dtype
) -> Prediction:
    """The mask branch: what its decoder says in the end, in float32; ``[B, P, C]``, uint8 ``[B, S, S, 3]``."""
    last = model.segment(config, params, features, colormaps, dtype).last
    return jax.tree.map(lambda x: x.astype(jnp.float32), last)


@jax.jit
def match(prediction: Prediction, index: jax.Array, visible: jax.Array) -> jax.Array:
    """Which query stands for which mask (spec gella D0).

    Args:
        prediction: see `segment_entities`.
        index: int32 ``[B, S, S]``, the masks of the colormaps, from 1 on.
        visible: bool ``[B, E]``; false for padding.

    Returns:
        int32 ``[B, E]``; -1 for masks that have no query.
    """
    return matching.match(SegmentationWeights(), prediction, matching.entity_targets(index, visible))


@functools.partial(jax.jit, static_argnames="config")
def prefill(config: GellaConfig, params: dict, row: Row, patches: jax.Array) -> jax.Array:
    """The states of the nouns of finished answers: ``[B, M, D]``, see `model.noun_states`."""
    hidden, _ = llava.decode(config.llama, params["llama"], row["ids"], row["positions"], row["branch"], patches)
    return model.noun_states(config, hidden, row["seg_positions"])


@functools.partial(jax.jit, static_argnames="config")
def associate(config: GellaConfig, params: dict, nouns: jax.Array, queries: jax.Array) -> jax.Array:
    """How much a noun means a query: ``[B, M, D], [B, Q, D] -> float32 [B, M, Q]``, logits."""
    return model.associate(config, params, nouns, queries)
