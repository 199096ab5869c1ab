"""Free decoding with a KV cache: prompts of different lengths in one batch, none of which sees another."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from grounding_jax.models import llama
from grounding_jax.models.llama import LlamaConfig


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


def generate(
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
) -> Generation:
    """Continues prompts, greedily or by sampling, until each has written `eos` or `max_new` tokens.

    All rows write their token number n to slot T + n of the cache, at the position their own length asks for; the
    padding between is masked. So a row's result does not depend on what else is in the batch.

    Args:
        config: sizes of the decoder.
        params: of the decoder, see `llama.init`.
        x: embedded prompts ``[B, T, D]``, padded on the right.
        positions, branch: int32 ``[B, T]``; padding has branch -1.
        max_new: N, the most tokens to write.
        eos: the token that ends an answer.
        suppressed: tokens that may not be written.
        temperature: 0 takes the most likely token; otherwise tokens are drawn from softmax(logits / temperature).
        keys: a random key for each row ``[B]``, needed for sampling.

    Returns:
        A `Generation`.
    """
    B, T, D = x.shape
    lengths = (branch >= 0).sum(1)
    last_branch = branch.max(1)
    cache_branch = jnp.pad(branch, ((0, 0), (0, max_new)), constant_values=-1)
    cache = llama.empty_cache(config, B, T + max_new, x.dtype)
    hidden, aux = llama.decode(config, params, x, positions, branch, cache=cache, cache_branch=cache_branch, slot=0)
    state = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    written = Generation(
        jnp.full((B, max_new), eos, jnp.int32), jnp.zeros((B, max_new, D), x.dtype), jnp.zeros((B, max_new))
    )

    def choose(state, n):
        logits = llama.logits(config, params, state[:, 0])
        logits = logits.at[:, list(suppressed)].set(-jnp.inf) if suppressed else logits
        if not temperature:
            token = logits.argmax(-1)
        else:
            token = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, n), row))(
                keys, logits / temperature
            )
        return token.astype(jnp.int32), jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]

    def unfinished(carry):
        n, _, _, done, _, _ = carry
        return (n < max_new) & ~done.all()

    def write(carry):
        n, state, written, done, cache, cache_branch = carry
        token, logit = choose(state, n)
        token = jnp.where(done, eos, token)
        written = Generation(
            written.ids.at[:, n].set(token),
            written.states.at[:, n].set(state[:, 0]),
            written.logits.at[:, n].set(jnp.where(done, 0.0, logit)),
        )
        done |= token == eos
        cache_branch = cache_branch.at[:, T + n].set(last_branch)
        hidden, aux = llama.decode(
            config,
            params,
            llama.embed(params, token[:, None]).astype(x.dtype),
            (lengths + n)[:, None],
            last_branch[:, None],
            cache=cache,
            cache_branch=cache_branch,
            slot=T + n,
        )
        return n + 1, hidden, written, done, aux["cache"], cache_branch

    start = (0, state, written, jnp.zeros(B, bool), aux["cache"], cache_branch)
    return jax.lax.while_loop(unfinished, write, start)[2]
