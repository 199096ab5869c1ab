"""Which query of Mask2Former stands for which mask (Cheng et al. 2022, arXiv:2112.01527; spec gella b and D0).

    targets = entity_targets(index, visible)
    queries = match(weights, prediction, targets)                # int32 [B, M], by all places of the mask logits

Costs are measured at points: fractions of a mask's width and height, x before y, the same for masks of any resolution.
In training they are drawn at random.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from grounding_jax.models.mask2former import Prediction
from grounding_jax.models.mask2former.deformable import centres, sample

OVERSAMPLING = 3  # candidates for each point of the mask losses
_UNCERTAIN = 0.75  # of the points are the candidates whose logits are closest to 0


@dataclasses.dataclass(frozen=True)
class SegmentationWeights:
    """Weights of the terms, in the costs of a match and in the loss, and the number of points.

    Attributes:
        classes: weight of the classes' cross entropy; in a cost, of the probability.
        mask: weight of the masks' binary cross entropy.
        dice: weight of the masks' dice loss.
        no_object: weight of a query without a mask, beside the 1 of every other, in the cross entropy of the classes.
        points: P, at which masks are compared.
    """

    classes: float = 2.0
    mask: float = 5.0
    dice: float = 5.0
    no_object: float = 0.1
    points: int = 12544


class Targets(NamedTuple):
    """The masks of a batch of pictures, padded to M.

    Attributes:
        masks: bool ``[B, M, H, W]``, in the frame of the mask logits, at any resolution.
        classes: int32 ``[B, M]``.
        valid: bool ``[B, M]``; false for padding.
    """

    masks: jax.Array
    classes: jax.Array
    valid: jax.Array


class Points(NamedTuple):
    """Where the masks of one layer are compared, float32 in [0, 1], x and y.

    Attributes:
        matching: ``[B, P, 2]``, for all pairs of a query and a mask.
        candidates: ``[B, M, 3 P, 2]``, of which a pair's loss keeps the most uncertain.
        others: ``[B, M, P / 4, 2]``, which it keeps in any case.
    """

    matching: jax.Array
    candidates: jax.Array
    others: jax.Array


def entity_targets(index: jax.Array, visible: jax.Array) -> Targets:
    """The visible masks of colormaps, all of class 0 (spec gella b, L_seg).

    Args:
        index: int32 ``[B, S, S]``, see `colormap.EntityMap`.
        visible: bool ``[B, M]``; false for hidden masks and padding.
    """
    numbers = jnp.arange(1, visible.shape[1] + 1)
    return Targets(index[:, None] == numbers[:, None, None], jnp.zeros(visible.shape, jnp.int32), visible)


def draw_points(weights: SegmentationWeights, keys: jax.Array, masks: int) -> Points:
    """Uniform points for one layer: ``keys [B]``, one for each picture, and M masks."""
    P = weights.points
    shapes = (P, 2), (masks, OVERSAMPLING * P, 2), (masks, P - int(_UNCERTAIN * P), 2)

    def one_picture(key):
        return Points(*map(jax.random.uniform, jax.random.split(key, len(shapes)), shapes))

    return jax.vmap(one_picture)(keys)


def sample_points(maps: jax.Array, points: jax.Array) -> jax.Array:
    """All maps of a picture at the same points, bilinear between the middles of pixels, zero outside.

    Args:
        maps: ``[B, M, H, W]``.
        points: ``[B, P, 2]``.

    Returns:
        float32 ``[B, M, P]``.
    """
    B, M, H, W = maps.shape
    values = jnp.moveaxis(maps.reshape(B, M, H * W).astype(jnp.float32), 1, 2)[:, :, None]
    locations = (points * jnp.array([W, H]) - 0.5)[:, :, None, None, None]
    return sample(values, locations, jnp.ones(locations.shape[:-1]), ((H, W),))[:, :, 0].swapaxes(1, 2)


def sample_own_points(maps: jax.Array, points: jax.Array) -> jax.Array:
    """Every map at points of its own: ``maps [B, M, H, W], points [B, M, P, 2] -> float32 [B, M, P]``."""
    return jax.vmap(sample_points, 1, 1)(maps[:, :, None], points)[:, :, 0]


def uncertain_points(logits: jax.Array, points: Points) -> jax.Array:
    """The P points of the mask losses: the candidates with logits closest to 0, and the others (section 3.3).

    Args:
        logits: mask logits, ``[B, M, h, w]``; no gradient passes.
        points: see `Points`.

    Returns:
        ``[B, M, P, 2]``.
    """
    count = points.candidates.shape[2] // OVERSAMPLING - points.others.shape[2]
    certainty = jnp.abs(sample_own_points(jax.lax.stop_gradient(logits), points.candidates))
    chosen = jax.lax.top_k(-certainty, count)[1]
    chosen = jnp.take_along_axis(points.candidates, chosen[..., None], axis=2)
    return jnp.concatenate([chosen, points.others], axis=2)


def costs(weights: SegmentationWeights, prediction: Prediction, targets: Targets, points: jax.Array) -> jax.Array:
    """What it costs to have a query stand for a mask; no gradient passes.

    Args:
        weights: weights of the terms.
        prediction: the prediction of one layer.
        targets: M masks, padding included.
        points: ``[B, P, 2]``.

    Returns:
        float32 ``[B, Q, M]``.
    """
    prediction = jax.lax.stop_gradient(prediction)
    logits, truth = sample_points(prediction.mask_logits, points), sample_points(targets.masks, points)

    def products(x):
        # All of float32, whose last digits may decide between two queries, where matrix units have less by default.
        return jnp.einsum("BQp,BMp->BQM", x, truth, precision=jax.lax.Precision.HIGHEST)

    bce = (jax.nn.softplus(logits).sum(2)[..., None] - products(logits)) / points.shape[1]
    p = jax.nn.sigmoid(logits)
    dice = 1 - (2 * products(p) + 1) / (p.sum(2)[..., None] + truth.sum(2)[:, None] + 1)
    probability = jax.nn.softmax(prediction.class_logits.astype(jnp.float32))
    probability = jnp.take_along_axis(probability, targets.classes[:, None], axis=2)
    return weights.mask * bce + weights.dice * dice - weights.classes * probability


def assign(costs: jax.Array, valid: jax.Array) -> jax.Array:
    """The assignment of queries to masks with the least total cost.

    Args:
        costs: float32 ``[..., Q, M]``.
        valid: bool ``[..., M]``; the others get no query.

    Returns:
        int32 ``[..., M]``: the query of a mask, no two the same; -1 for padding, and where there are fewer queries
        than masks.
    """
    valid = valid[..., None, :]
    usable = jnp.isfinite(costs) & valid
    # Costs that are not finite are worse than all others, and padding is worse still, so that where there are more
    # columns than queries these go to masks first. Not by much: of a large number float32 keeps nothing of the others.
    worst = jnp.max(costs, axis=(-2, -1), keepdims=True, where=usable, initial=0) + 1
    costs = jnp.where(usable, costs, jnp.where(valid, worst, worst + 1))

    def one_picture(costs):
        queries, masks = optax.assignment.hungarian_algorithm(costs)
        return jnp.full(costs.shape[1], -1, jnp.int32).at[masks].set(queries)

    return jnp.where(valid[..., 0, :], jnp.vectorize(one_picture, signature="(q,m)->(m)")(costs), -1)


def match(weights: SegmentationWeights, prediction: Prediction, targets: Targets) -> jax.Array:
    """The query of each mask in prediction: as in training, but by all places of the mask logits (spec gella D0).

    Args:
        weights: weights of the terms.
        prediction: the prediction of the last layer.
        targets: M masks, padding included.

    Returns:
        int32 ``[B, M]``, see `assign`.
    """
    places = centres((prediction.mask_logits.shape[2:],))
    places = jnp.broadcast_to(places, (len(targets.valid), *places.shape))
    return assign(costs(weights, prediction, targets, places), targets.valid)
