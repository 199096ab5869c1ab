"""The one attention entry point of all models, and the mask of conversations that share a prefix."""

from __future__ import annotations

import jax
import jax.numpy as jnp


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
    return jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask)


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
