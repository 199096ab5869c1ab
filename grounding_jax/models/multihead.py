"""Attention between two sets of tokens with its four linear layers, as decoders of masks use it."""

from __future__ import annotations

import jax
from flax import linen as nn

from grounding_jax.models.attention import attention
from grounding_jax.models.layers import Linear, merge_heads, split_heads


class MultiHeadAttention(nn.Module):
    """Queries of one set look at keys and values of another.

    Attributes:
        width: width of queries, keys and values, all heads together.
        heads: N.
    """

    width: int
    heads: int

    @nn.compact
    def __call__(self, q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """``q [B, Q, D], k and v [B, S, D] -> [B, Q, D]``, where bool ``mask [B, 1 or N, Q, S]`` is true."""
        D = q.shape[-1]
        q, k, v = (
            split_heads(Linear(self.width, name=name)(x), self.heads) for name, x in (("q", q), ("k", k), ("v", v))
        )
        return Linear(D, name="o")(merge_heads(attention(q, k, v, mask=mask)))
