"""Free decoding with a KV cache: prompts of different lengths in one batch, none of which sees another."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from grounding_jax.language.rows import Row
from grounding_jax.models import llama, llava
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.sharding.mesh import BATCH

# Keys and values [L, B, T, N_kv, K] on a mesh: rows as in the batch, heads as in the matrices that make them.
CACHE = PartitionSpec(None, *BATCH, None, "tensor", None)


class Generation(NamedTuple):
    """What a batch of prompts was continued with.

    Attributes:
        ids: int32 ``[B, N]``: the tokens written, `eos` included; after it, `eos` again.
        states: ``[B, N, D]``: the hidden state from which each token was chosen, after the final norm.
        logits: float32 ``[B, N]``: the logit of each token chosen.
    """

    ids: jax.Array
    states: jax.Array
    logits: jax.Array


class _State(NamedTuple):
    """A batch in the midst of its answers.

    Attributes:
        n: the number of the next token.
        state: ``[B, 1, D]``, from which it will be chosen.
        written: ids written so far.
        done: bool ``[B]``: has written `eos`.
        cache, cache_branch: keys, values and branches of the prompts and of what is written, see `llama.Decoder`.
    """

    n: jax.Array | int
    state: jax.Array
    written: Generation
    done: jax.Array
    cache: dict[str, jax.Array]
    cache_branch: jax.Array


def empty_cache(config: LlamaConfig, batch: int, length: int, dtype, mesh: Mesh | None) -> dict[str, jax.Array]:
    """`llama.empty_cache`, laid out over a mesh where there is one."""
    cache = llama.empty_cache(config, batch, length, dtype)
    return cache if mesh is None else jax.lax.with_sharding_constraint(cache, NamedSharding(mesh, CACHE))


@functools.partial(jax.jit, static_argnames=("config", "max_new", "eos", "suppressed", "temperature", "mesh"))
def generate(
    config: LlamaConfig, params: dict, row: Row, patches: jax.Array, keys: jax.Array | None, **options
) -> Generation:
    """Continues the prompts of a batch of rows about pictures; for all but ``patches [B, P, D]``, see
    `generate_embedded`."""
    x = llava.embed(params, row["ids"], patches)
    return generate_embedded(config, params, x, row["positions"], row["branch"], keys=keys, **options)


def generate_embedded(
    config: LlamaConfig,
    params: dict,
    x: jax.Array,
    positions: jax.Array,
    branch: jax.Array,
    *,
    max_new: int,
    eos: int,
    suppressed: tuple[int, ...] = (),
    temperature: float = 0.0,
    keys: jax.Array | None = None,
    mesh: Mesh | None = None,
) -> Generation:
    """Continues prompts, greedily or by sampling, until each has written `eos` or `max_new` tokens.

    All rows write their token number n to slot T + n of the cache, at the position their own length asks for; the
    padding between is masked. So a row's result does not depend on what else is in the batch.

    Args:
        config: sizes of the decoder.
        params: parameters of the decoder, see `llama.init`.
        x: embedded prompts ``[B, T, D]``, padded on the right.
        positions, branch: int32 ``[B, T]``; padding has branch -1.
        max_new: N, the most tokens to write.
        eos: the token that ends an answer.
        suppressed: tokens that may not be written.
        temperature: 0 takes the most likely token; otherwise tokens are drawn from softmax(logits / temperature).
        keys: a random key for each row ``[B]``, needed for sampling.
        mesh: mesh of the parameters, for the cache; None where all is on one device.

    Returns:
        A `Generation`.
    """
    T = x.shape[1]
    lengths, last_branch = (branch >= 0).sum(1), branch.max(1)

    def step(now: _State) -> _State:
        logits = llama.logits(config, params, now.state[:, 0])
        logits = logits.at[:, list(suppressed)].set(-jnp.inf) if suppressed else logits
        token = jnp.where(now.done, eos, _choose(logits, temperature, keys, now.n))
        written = _noted(now, token, logits)
        cache_branch = now.cache_branch.at[:, T + now.n].set(last_branch)
        x_new = llama.embed(params, token[:, None]).astype(x.dtype)
        row = (lengths + now.n)[:, None], last_branch[:, None]
        cached = dict(cache=now.cache, cache_branch=cache_branch, slot=T + now.n)
        state, aux = llama.decode(config, params, x_new, *row, **cached)
        return _State(now.n + 1, state, written, now.done | (token == eos), aux["cache"], cache_branch)

    def is_unfinished(now: _State) -> jax.Array:
        return (now.n < max_new) & ~now.done.all()

    begin = _prefill(config, params, x, positions, branch, max_new, eos, mesh)
    return jax.lax.while_loop(is_unfinished, step, begin).written


def _prefill(
    config: LlamaConfig,
    params: dict,
    x: jax.Array,
    positions: jax.Array,
    branch: jax.Array,
    max_new: int,
    eos: int,
    mesh: Mesh | None,
) -> _State:
    """Where writing begins; arguments as for `generate_embedded`."""
    B, T, D = x.shape
    cache_branch = jnp.pad(branch, ((0, 0), (0, max_new)), constant_values=-1)
    cache = empty_cache(config, B, T + max_new, x.dtype, mesh)
    hidden, aux = llama.decode(config, params, x, positions, branch, cache=cache, cache_branch=cache_branch, slot=0)
    last = (branch >= 0).sum(1) - 1
    state = jnp.take_along_axis(hidden, last[:, None, None], axis=1)
    nothing = Generation(
        jnp.full((B, max_new), eos, jnp.int32), jnp.zeros((B, max_new, D), x.dtype), jnp.zeros((B, max_new))
    )
    return _State(0, state, nothing, jnp.zeros(B, bool), aux["cache"], cache_branch)


def _choose(logits: jax.Array, temperature: float, keys: jax.Array | None, n: jax.Array) -> jax.Array:
    """The token number ``n`` of every row: ``[B, V] -> int32 [B]``; see `generate_embedded`."""
    if not temperature:
        return logits.argmax(-1).astype(jnp.int32)
    keys = jax.vmap(lambda key: jax.random.fold_in(key, n))(keys)
    return jax.vmap(jax.random.categorical)(keys, logits / temperature).astype(jnp.int32)


def _noted(now: _State, token: jax.Array, logits: jax.Array) -> Generation:
    """What is written once a token ``[B]`` is chosen from ``[B, V]``."""
    logit = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    return Generation(
        now.written.ids.at[:, now.n].set(token),
        now.written.states.at[:, now.n].set(now.state[:, 0]),
        now.written.logits.at[:, now.n].set(jnp.where(now.done, 0.0, logit)),
    )
