"""The one attention entry point of all models, and the mask of conversations that share a prefix."""

from __future__ import annotations

import jax
import jax.numpy as jnp

CACHED_LOGITS = 2**17  # of one row; as many float32 fit into the cache of a CPU core beside what else is needed


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: jax.Array | None = None,
    bias: jax.Array | None = None,
) -> jax.Array:
    """Scaled dot-product attention with a float32 softmax.

    Args:
        q: queries ``[B, T, N, K]``.
        k: keys ``[B, S, N_kv, K]``; N must be a multiple of N_kv (grouped queries).
        v: values ``[B, S, N_kv, K]``.
        mask: bool ``[B, 1 or N, T, S]``, true where a query may look.
        bias: added to the scaled logits, broadcastable to ``[B, N, T, S]``.

    Returns:
        ``[B, T, N, K]`` in the dtype of ``q``.
    """
    if q.shape[1] * q.shape[2] * k.shape[1] < CACHED_LOGITS:
        return _at_once(q, k, v, mask, bias)
    return jax.lax.platform_dependent(q, k, v, mask, bias, cpu=_row_by_row, default=_at_once)


def _at_once(q, k, v, mask, bias) -> jax.Array:
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask)


def _row_by_row(q, k, v, mask, bias) -> jax.Array:
    """The same for one row of the batch after the other, the logits made again in the backward pass.

    On a CPU the logits of a whole batch go through memory several times; those of a row stay in the cache.
    """
    B = q.shape[0]
    mask, bias = (x if x is None else jnp.broadcast_to(x, (B, *x.shape[1:])) for x in (mask, bias))
    return jax.lax.map(jax.checkpoint(lambda row: _one_row(*row)), (q, k, v, mask, bias))


def _one_row(q, k, v, mask, bias) -> jax.Array:
    """``q [T, N, K], k and v [S, N_kv, K], mask and bias [N or 1, T, S] -> [T, N, K]``."""
    T, N, K = q.shape
    S, N_kv, _ = k.shape
    grouped = q.reshape(T, N_kv, N // N_kv, K)
    logits = jnp.einsum("TnGK,SnK->nGTS", grouped, k, preferred_element_type=jnp.float32).reshape(N, T, S)
    logits = logits / K**0.5
    if bias is not None:
        logits = logits + bias
    if mask is not None:
        logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min / 2)
    weights = jax.nn.softmax(logits).astype(v.dtype).reshape(N_kv, N // N_kv, T, S)
    return jnp.einsum("nGTS,SnK->TnGK", weights, v).reshape(T, N, K)


def branch_mask(query_branch: jax.Array, key_branch: jax.Array, first_query: jax.Array | int = 0) -> jax.Array:
    """Who sees whom in a row of conversations behind a shared prefix.

    Token i attends to token j iff j <= i and (j is in the prefix or both are in the same branch); padding (branch -1)
    is seen by nobody outside itself.

    Args:
        query_branch: int32 ``[B, T]``, the branch of each query: 0 prefix, 1.. conversations, -1 padding.
        key_branch: int32 ``[B, S]``, the same of each key.
        first_query: slot of the first query among the keys (the fill of the cache when decoding).

    Returns:
        bool ``[B, 1, T, S]``.
    """
    slots = first_query + jnp.arange(query_branch.shape[1])
    causal = jnp.arange(key_branch.shape[1])[None, :] <= slots[:, None]
    related = (key_branch[:, None, :] == 0) | (key_branch[:, None, :] == query_branch[:, :, None])
    return (causal & related)[:, None]
