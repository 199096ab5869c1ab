"""GSVA's losses (spec gsva d): cross entropy of the answer, and BCE and dice of the masks.

Everything is a sum over a count inside a fixed group of consecutive examples, then a plain mean over groups. So the
number does not depend on how examples are spread over devices or accumulation steps.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from grounding_jax.language.rows import IGNORED


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms (spec gsva d) and the size of a loss group.

    Attributes:
        ce: of the cross entropy.
        bce: of the masks' binary cross entropy.
        dice: of the masks' dice loss.
        loss_group: consecutive examples whose tokens and masks are pooled; must divide the batch.
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    loss_group: int = 2


def cross_entropy(logits: jax.Array, labels: jax.Array, weight: jax.Array | float = 1.0) -> tuple[jax.Array, jax.Array]:
    """Sum of the next-token losses and sum of the tokens' weights of each row.

    Args:
        logits: float32 ``[B, T, V]``.
        labels: int32 ``[B, T]``: the token that each slot must predict, or `IGNORED`.
        weight: of the tokens, float32 ``[B, T]``; the release has none.

    Returns:
        ``([B], [B])``.
    """
    weight = jnp.where(labels != IGNORED, weight, 0.0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    return (loss * weight).sum(1), weight.sum(1)


def mask_terms(logits: jax.Array, masks: jax.Array, inside: jax.Array) -> tuple[jax.Array, jax.Array]:
    """BCE and dice of single masks.

    Args:
        logits: float32 ``[M, H, W]``.
        masks: bool ``[M, H, W]``.
        inside: bool ``[H, W]``: the pixels that belong to the picture.

    Returns:
        ``(bce [M], dice [M])``: the mean over pixels, and 1 - dice with the release's 1/1000 scale.
    """
    masks = masks.astype(jnp.float32)
    pixels = inside.astype(jnp.float32)
    bce = (optax.sigmoid_binary_cross_entropy(logits, masks) * pixels).sum((1, 2)) / pixels.sum()
    p = jax.nn.sigmoid(logits) * pixels
    overlap = 2 * (p / 1000 * masks).sum((1, 2))
    total = (p / 1000).sum((1, 2)) + (masks / 1000).sum((1, 2))
    return bce, 1 - (overlap + 1e-6) / (total + 1e-6)


def resized_mask_terms(
    low: jax.Array, rows: jax.Array, columns: jax.Array, inside: jax.Array, masks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`mask_terms` of low-resolution logits at the size of their pictures, one picture after the other.

    Args:
        low: float32 ``[B, M, l, l]``.
        rows, columns: resizing matrices ``[B, canvas, l]`` (see `mask_resize.canvas_matrices`).
        inside: bool ``[B, canvas, canvas]``.
        masks: bool ``[B, M, canvas, canvas]``.

    Returns:
        ``(bce [B, M], dice [B, M])``.
    """

    @jax.checkpoint  # the logits at full size are made again in the backward pass: they are the largest arrays
    def one_picture(arguments):
        low, rows, columns, inside, masks = arguments
        return mask_terms(jnp.einsum("Hh,Mhw,Ww->MHW", rows, low, columns), masks, inside)

    return jax.lax.map(one_picture, (low, rows, columns, inside, masks))


def group_mean(sums: jax.Array, counts: jax.Array, loss_group: int) -> jax.Array:
    """Mean over groups of (sum over the group) / (count of the group): ``[B], [B] -> scalar``; 0 / 0 counts as 0."""
    if len(sums) % loss_group:
        raise ValueError(f"a batch of {len(sums)} examples is no multiple of the loss group of {loss_group}")
    sums, counts = (x.reshape(-1, loss_group).sum(1) for x in (sums, counts))
    return (sums / (counts + 1e-8)).mean()


def total(
    weights: LossWeights, ce: tuple[jax.Array, jax.Array], bce: jax.Array, dice: jax.Array, valid: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted loss of a batch.

    Args:
        weights: see `LossWeights`.
        ce: sums and counts of `cross_entropy`.
        bce, dice: ``[B, M]``.
        valid: bool ``[B, M]``: which slots hold a target, rejected ones included.

    Returns:
        ``(loss, {"ce", "bce", "dice", "mask"})``, the terms already weighted.
    """
    count = valid.sum(1).astype(jnp.float32)
    bce, dice = (jnp.where(valid, term, 0.0).sum(1) for term in (bce, dice))
    terms = {
        "ce": weights.ce * group_mean(*ce, weights.loss_group),
        "bce": weights.bce * group_mean(bce, count, weights.loss_group),
        "dice": weights.dice * group_mean(dice, count, weights.loss_group),
    }
    mask = terms["bce"] + terms["dice"]
    return terms["ce"] + mask, {**terms, "mask": mask}
