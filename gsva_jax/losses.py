"""GSVA's losses (spec gsva d): BCE and dice of the masks, and how they are weighed against the answer's cross entropy.

Everything is a sum over a count inside a fixed group of examples, see `grounding_jax.training.losses`.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import optax

from grounding_jax.models.mask_resize import canvas_matrices
from grounding_jax.models.sam import SamConfig
from grounding_jax.training.losses import group_weights, token_counts


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the terms (spec gsva d) and the size of a loss group.

    Attributes:
        ce: weight of the cross entropy of the text.
        bce: weight of the masks' binary cross entropy.
        dice: weight of the masks' dice loss.
        loss_group: consecutive examples whose tokens and masks are averaged together; divides the batch.
        count_rejected: count rejected targets as masks, as the release does, where they thin out the others (quirk 3).
    """

    ce: float = 1.0
    bce: float = 2.0
    dice: float = 0.5
    loss_group: int = 2
    count_rejected: bool = True


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
        masks: uint8 ``[B, M, canvas, canvas / 8]``, bit-packed along the last axis.

    Returns:
        ``(bce [B, M], dice [B, M])``.
    """

    @jax.checkpoint  # the logits at full size are made again in the backward pass: they are the largest arrays
    def one_picture(arguments):
        low, rows, columns, inside, masks = arguments
        return mask_terms(jnp.einsum("Hh,Mhw,Ww->MHW", rows, low, columns), unpack(masks), inside)

    return jax.lax.map(one_picture, (low, rows, columns, inside, masks))


def resizing(sam: SamConfig, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What takes low-resolution logits to the canvas, see `mask_resize.canvas_matrices`.

    Args:
        sam: sizes.
        batch: ``resized`` and ``original`` int32 ``[B, 2]``, and ``masks``.

    Returns:
        ``(rows [B, canvas, l], columns [B, canvas, l], inside [B, canvas, canvas])``.
    """
    canvas = batch["masks"].shape[-2]

    def matrices(resized, original):
        return canvas_matrices(sam.low_res, sam.image_size, canvas, resized, original)

    return jax.vmap(matrices)(batch["resized"], batch["original"])


def overlaps(
    low: jax.Array, rows: jax.Array, columns: jax.Array, inside: jax.Array, masks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Pixels in both masks and in either, at the size of the pictures; arguments as of `resized_mask_terms`.

    Returns:
        ``(intersection [B, M], union [B, M])``, float32.
    """

    def one_picture(arguments):
        low, rows, columns, inside, masks = arguments
        guess = (jnp.einsum("Hh,Mhw,Ww->MHW", rows, low, columns) > 0) & inside
        truth = unpack(masks)
        return (guess & truth).sum((1, 2), jnp.float32), (guess | truth).sum((1, 2), jnp.float32)

    return jax.lax.map(one_picture, (low, rows, columns, inside, masks))


def unpack(masks: jax.Array) -> jax.Array:
    """Bit-packed masks as bools: uint8 ``[..., H, W / 8] -> [..., H, W]``."""
    # Not jnp.unpackbits, which fails where there are no masks.
    bits = (masks[..., None] >> jnp.arange(7, -1, -1, dtype=jnp.uint8)) & 1
    return bits.astype(bool).reshape(*masks.shape[:-1], 8 * masks.shape[-1])


def counted(weights: LossWeights, batch: dict[str, jax.Array]) -> jax.Array:
    """Which slots of a batch count as masks: bool ``[B, M]``; rejected ones do in the release (spec gsva a.10, 5)."""
    valid = batch["target_valid"]
    return valid if weights.count_rejected else valid & ~batch["target_rejected"]


def prepare(weights: LossWeights, batch: dict[str, jax.Array], token_weight: jax.Array | float = 1.0) -> dict:
    """The batch with ``ce_weight`` and ``mask_weight`` ``[B]`` for `total`, from its ``labels`` and targets."""
    tokens = token_counts(batch["labels"], token_weight)
    return {
        **batch,
        "ce_weight": group_weights(tokens, weights.loss_group),
        "mask_weight": group_weights(counted(weights, batch).sum(1), weights.loss_group),
    }


def total(
    weights: LossWeights, ce: jax.Array, bce: jax.Array, dice: jax.Array, batch: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The weighted loss of a batch, or of a part of it: the mean over equal parts is that of the whole.

    Args:
        weights: see `LossWeights`.
        ce: `training.losses.cross_entropy`, ``[B]``.
        bce, dice: ``[B, M]``.
        batch: the batch that `prepare` gave.

    Returns:
        ``(loss, {"ce", "bce", "dice", "mask"})``, the terms already weighted.
    """
    bce, dice = (jnp.where(counted(weights, batch), term, 0.0).sum(1) for term in (bce, dice))
    terms = {
        "ce": weights.ce * (batch["ce_weight"] * ce).mean(),
        "bce": weights.bce * (batch["mask_weight"] * bce).mean(),
        "dice": weights.dice * (batch["mask_weight"] * dice).mean(),
    }
    mask = terms["bce"] + terms["dice"]
    return terms["ce"] + mask, {**terms, "mask": mask}
