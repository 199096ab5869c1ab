"""Losses that do not depend on how examples are spread: sums of rows, weighted so that their mean is the loss.

A loss is a sum over a count inside a fixed group of consecutive examples, then a plain mean over the groups:

    weight = group_weights(token_counts(labels), loss_group)     # of the whole batch: known from the data alone
    loss = (weight * cross_entropy(logits, labels)).mean()       # of the batch, or of a part of it

The mean over equal parts is the mean of the whole, so the number is the same for every accumulation, mesh and number of
hosts.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from grounding_jax.language.rows import IGNORED


def cross_entropy(logits: jax.Array, labels: jax.Array, weight: jax.Array | float = 1.0) -> jax.Array:
    """Sum of the next-token losses of each row.

    Args:
        logits: float32 ``[B, T, V]``.
        labels: int32 ``[B, T]``: the token that each slot must predict, or `rows.IGNORED`.
        weight: weights of the tokens, float32 ``[B, T]``.

    Returns:
        float32 ``[B]``; `token_counts` is what it is divided by.
    """
    weight = jnp.where(labels != IGNORED, weight, 0.0)
    return (optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0)) * weight).sum(1)


def token_counts(labels: jax.Array, weight: jax.Array | float = 1.0) -> jax.Array:
    """The weights of the tokens that each row is to predict, added up: float32 ``[B]``; see `cross_entropy`."""
    return jnp.where(labels != IGNORED, weight, 0.0).sum(1)


def group_weights(counts: jax.Array, loss_group: int) -> jax.Array:
    """What a row's sum is multiplied with, so that the mean over rows is the mean over groups of (sum / count).

    Counts are known from the data, so the weights of a batch can be computed before it is cut into micro-batches.

    Args:
        counts: ``[B]``, tokens or masks of each row.
        loss_group: consecutive rows whose sums and counts are pooled; B pools the whole batch.

    Returns:
        float32 ``[B]``: ``loss_group / (count of the row's group)``, 0 where that is 0.

    Raises:
        ValueError: the groups do not divide the batch.
    """
    if len(counts) % loss_group:
        raise ValueError(f"a batch of {len(counts)} examples is no multiple of the loss group of {loss_group}")
    pooled = counts.astype(jnp.float32).reshape(-1, loss_group).sum(1)
    return jnp.repeat(jnp.where(pooled > 0, loss_group / (pooled + 1e-8), 0.0), loss_group)
