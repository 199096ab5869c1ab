"""GELLA's association: which queries, and so which entities, a noun means (spec gella A10).

    logits = associate(config, params, nouns, queries)           # [B, M, Q]
    targets, grounded = association_targets(meant, visible, query_of_entity, Q)
    sums, counts = association_loss(logits, targets, grounded)

M nouns, E masks that were put in, Q queries. This is the only place where language meets segmentation.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from grounding_jax.models.layers import Linear, Mlp

KINDS = ("fc", "fc_relu_fc")


@dataclasses.dataclass(frozen=True)
class AssociationConfig:
    """Sizes of the association.

    Attributes:
        text_width: width of the language model's states.
        query_width: width of the decoder's queries.
        width: D of the space in which the two are compared.
        kind: projection on both sides: "fc", a linear layer, or "fc_relu_fc", two with a ReLU between them
            (Table 10).
    """

    text_width: int
    query_width: int = 256
    width: int = 256
    kind: str = "fc"

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind is {self.kind!r}, should be {' or '.join(KINDS)}")


class Association(nn.Module):
    """Dot products of nouns and queries behind a projection of each."""

    config: AssociationConfig

    @nn.compact
    def __call__(self, nouns: jax.Array, queries: jax.Array) -> jax.Array:
        """See `associate`."""
        return products(*(_projection(self.config, name)(x) for name, x in (("text", nouns), ("query", queries))))


def _projection(config: AssociationConfig, name: str | None = None) -> nn.Module:
    """From the states of one side to the space of both."""
    if config.kind == "fc":
        return Linear(config.width, name=name)
    return Mlp(config.width, config.width, "relu", name=name)


def project(config: AssociationConfig, params: dict, side: str, states: jax.Array) -> jax.Array:
    """States of the "text" or of a "query" in the space in which the two are compared: ``[..., D]``."""
    return _projection(config).apply({"params": params[side]}, states)


def products(nouns: jax.Array, queries: jax.Array) -> jax.Array:
    """Dot products of projected states: ``[B, M, D], [B, Q, D] -> float32 [B, M, Q]``."""
    return jnp.einsum("BMD,BQD->BMQ", nouns, queries, preferred_element_type=jnp.float32)


def init(config: AssociationConfig, key: jax.Array) -> dict:
    """Random parameters."""
    nouns, queries = jnp.zeros((1, 1, config.text_width)), jnp.zeros((1, 1, config.query_width))
    return Association(config).init(key, nouns, queries)["params"]


def associate(config: AssociationConfig, params: dict, nouns: jax.Array, queries: jax.Array) -> jax.Array:
    """How much every noun means every query; a sigmoid makes it a probability (spec gella A10).

    Args:
        config: sizes.
        params: as made by `init`.
        nouns: states of the language model at [SEG], ``[B, M, text_width]``.
        queries: states of the decoder's queries behind its last norm, ``[B, Q, query_width]``.

    Returns:
        Logits, float32 ``[B, M, Q]``.
    """
    return Association(config).apply({"params": params}, nouns, queries)


def association_targets(
    meant: jax.Array, visible: jax.Array, query_of_entity: jax.Array, queries: int
) -> tuple[jax.Array, jax.Array]:
    """What the association should say, and for which nouns that is known (spec gella b, L_asso).

    Args:
        meant: bool ``[B, M, E]``, the masks that belong to a noun.
        visible: bool ``[B, E]``; false for hidden masks and padding.
        query_of_entity: int32 ``[B, E]``, the query that the last layer's matching gave to a mask; -1 for none.
        queries: Q.

    Returns:
        ``(targets, grounded)``: bool ``[B, M, Q]``, true where the query was given to a mask that belongs to the noun,
        and bool ``[B, M]``, true for nouns with a visible mask. The others have no say in the loss.
    """
    meant = meant & visible[:, None]
    given = query_of_entity[..., None] == jnp.arange(queries)
    return (meant[..., None] & given[:, None]).any(2), meant.any(2)


def association_loss(logits: jax.Array, targets: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross entropy, the mean over queries, summed over some of the nouns (spec gella b, L_asso).

    Args:
        logits: float32 ``[B, M, Q]``.
        targets: bool ``[B, M, Q]``.
        rows: bool ``[B, M]``, the nouns that count.

    Returns:
        ``(sum [B], count [B])``: the loss of a group of pictures is the sum of the sums over that of the counts.
    """
    terms = optax.sigmoid_binary_cross_entropy(logits, targets.astype(logits.dtype)).mean(2)
    return jnp.where(rows, terms, 0.0).sum(1), rows.sum(1)
