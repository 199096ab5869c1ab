"""The compiled steps of prediction: encode a picture, prefill a row, prefill again where it changed, decode masks.

Each is a jitted pure function of (config, parameters, arrays). Rows are padded to a few lengths, so that few programs
are compiled.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from grounding_jax.inference.generation import empty_cache
from grounding_jax.language.batching import SLOTS, next_power
from grounding_jax.language.rows import Row
from grounding_jax.models import llama, llava
from grounding_jax.sharding.mesh import BATCH
from gsva_jax import model
from gsva_jax.config import GsvaConfig


class Prefilled(NamedTuple):
    """What the model knows at the slots that predict [SEG] or [REJ].

    Attributes:
        hidden: ``[B, M, D]``, after the final norm.
        logits: float32 ``[B, M, V]``.
        cache: keys and values of the row.
    """

    hidden: jax.Array
    logits: jax.Array
    cache: dict[str, jax.Array]


@functools.partial(jax.jit, static_argnames=("config", "dtype", "mesh"))
def encode_image(
    config: GsvaConfig, params: dict, pictures: dict, dtype, mesh: Mesh | None = None
) -> tuple[jax.Array, jax.Array]:
    """Both towers, once a picture: ``([B, h, w, C] for masks, [B, P, D] for the language model)``."""
    image = model.encode_for_masks(config, params, pictures["sam_images"], pictures["resized"], dtype)
    encoded = image, model.encode_for_language(config, params, pictures["clip_images"], dtype)
    # Left alone, the compiler splits patches along D, like the matrix that made them.
    return encoded if mesh is None else jax.lax.with_sharding_constraint(encoded, NamedSharding(mesh, BATCH))


@functools.partial(jax.jit, static_argnames=("config", "mesh"))
def prefill(config: GsvaConfig, params: dict, row: Row, patches: jax.Array, mesh: Mesh | None = None) -> Prefilled:
    """What whole rows give, and their cache."""
    B, T = row["ids"].shape
    cache = empty_cache(config.llama, B, T, patches.dtype, mesh)
    hidden, aux = llava.decode(
        config.llama,
        params["llama"],
        row["ids"],
        row["positions"],
        row["branch"],
        patches,
        cache=cache,
        cache_branch=row["branch"],
        slot=0,
    )
    hidden = model.gather(hidden, row["seg_positions"])
    return Prefilled(hidden, llama.logits(config.llama, params["llama"], hidden), aux["cache"])


@functools.partial(jax.jit, static_argnames=("config", "window"), donate_argnames="prefilled")
def prefill_window(
    config: GsvaConfig, params: dict, row: Row, patches: jax.Array, prefilled: Prefilled, slot: jax.Array, window: int
) -> Prefilled:
    """``window`` slots of rows once more, from ``slot`` on, over the cache of what stands before."""

    def cut(array):
        return jax.lax.dynamic_slice_in_dim(array, slot, window, axis=1)

    hidden, aux = llama.decode(
        config.llama,
        params["llama"],
        cut(llava.embed(params["llama"], row["ids"], patches)),  # the window may reach back into the picture
        cut(row["positions"]),
        cut(row["branch"]),
        cache=prefilled.cache,
        cache_branch=row["branch"],
        slot=slot,
    )
    at = row["seg_positions"] - slot
    again = (at >= 0) & (at < window)
    hidden = model.gather(hidden, jnp.clip(at, 0, window - 1))
    logits = llama.logits(config.llama, params["llama"], hidden)
    return Prefilled(
        jnp.where(again[..., None], hidden, prefilled.hidden),
        jnp.where(again[..., None], logits, prefilled.logits),
        aux["cache"],
    )


@functools.partial(jax.jit, static_argnames="config")
def decode_masks(config: GsvaConfig, params: dict, hidden: jax.Array, image: jax.Array) -> jax.Array:
    """Low-resolution mask logits ``[B, M, l, l]`` from hidden states ``[B, M, D]``."""
    return model.decode_masks(config, params, model.make_prompts(config, params, hidden), image)


def prefill_from(
    config: GsvaConfig, params: dict, row: Row, patches: jax.Array, prefilled: Prefilled, first: int
) -> Prefilled:
    """Rows once more from slot ``first`` on, where their ids were changed; ``prefilled`` is used up."""
    T = row["ids"].shape[1]
    window = min(next_power(T - first, SLOTS), T)
    return prefill_window(config, params, row, patches, prefilled, T - window, window)
