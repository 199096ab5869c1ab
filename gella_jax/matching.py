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
from grounding_jax.models.mask2former.deformable import centres

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
        masks: in the frame of the mask logits, at any resolution: bool ``[B, M, H, W]``; or, where none overlap, the
            number of the mask at each place, from 1 on, int ``[B, H, W]``, which is far less to store and to read.
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
        index: int ``[B, S, S]``, see `colormap.EntityMap`.
        visible: bool ``[B, M]``; false for hidden masks and padding.
    """
    return Targets(index, jnp.zeros(visible.shape, jnp.int32), visible)


def some_masks(targets: Targets, which: jax.Array) -> jax.Array:
    """The masks at some places of all: ``which int32 [N] -> bool [B, N, H, W]``."""
    if targets.masks.ndim == 4:
        return targets.masks[:, which]
    return targets.masks[:, None] == which[:, None, None] + 1


def draw_points(weights: SegmentationWeights, keys: jax.Array, masks: int) -> Points:
    """Uniform points for one layer: ``keys [B]``, one for each picture, and M masks.

    The masks of a picture have the same points, moved by a step of each mask's own, around the edges. To draw millions
    of numbers would cost as much as to compare masks at them.
    """
    P = weights.points
    others = P - int(_UNCERTAIN * P)

    def moved(key: jax.Array, count: int) -> jax.Array:
        drawn, steps = jax.random.split(key)
        points = jax.random.uniform(drawn, (count, 2)) + jax.random.uniform(steps, (masks, 1, 2))
        return points - (points >= 1)

    def one_picture(key: jax.Array) -> Points:
        matching, *own = jax.random.split(key, 3)
        own = map(moved, own, (OVERSAMPLING * P, others))
        return Points(jax.random.uniform(matching, (P, 2)), *own)

    return jax.vmap(one_picture)(keys)


def corners(points: jax.Array, height: int, width: int) -> list[tuple[jax.Array, jax.Array]]:
    """The four pixels around points ``[..., P, 2]``: of each its place in a map, row by row, and its share.

    Both are ``[..., P]``. A share falls linearly from the middle of a pixel to those beside it; outside of the map it
    is 0.
    """
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = jnp.floor(x).astype(jnp.int32), jnp.floor(y).astype(jnp.int32)
    found = []
    for row in (top, top + 1):
        for column in (left, left + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
            found.append((index, jnp.where(inside, (1 - jnp.abs(x - column)) * (1 - jnp.abs(y - row)), 0)))
    return found


def take(table: jax.Array, index: jax.Array) -> jax.Array:
    """Rows of each picture's table: ``[B, S, ...], [B, P] -> [B, P, ...]``."""
    return jax.vmap(lambda table, index: table.at[index].get(mode="promise_in_bounds"))(table, index)


def sample_points(maps: jax.Array, points: jax.Array) -> jax.Array:
    """All maps of a picture at the same points, bilinear between the middles of pixels, zero outside.

    Args:
        maps: ``[B, M, H, W]``.
        points: ``[B, P, 2]``.

    Returns:
        float32 ``[B, M, P]``.
    """
    B, M, H, W = maps.shape
    table = jnp.moveaxis(maps.reshape(B, M, H * W), 1, 2)
    steps = jax.tree.map(lambda *x: jnp.stack(x), *corners(points, H, W))

    def add(total: jax.Array, step: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, share = step
        return total + share[..., None] * take(table, index), None

    # What a loop ends with is stored. A sum of four would be inlined: on a CPU, each of its readers would sample anew.
    return jax.lax.scan(add, jnp.zeros((B, points.shape[1], M)), steps)[0].swapaxes(1, 2)


def sample_masks(targets: Targets, points: jax.Array) -> jax.Array:
    """All masks at the same points, as `sample_points`: ``points [B, P, 2] -> float32 [B, M, P]``."""
    if targets.masks.ndim == 4:
        return sample_points(targets.masks, points)
    B, H, W = targets.masks.shape
    numbers, index = jnp.arange(1, targets.valid.shape[1] + 1)[:, None], targets.masks.reshape(B, H * W)
    return sum(share[:, None] * (take(index, place)[:, None] == numbers) for place, share in corners(points, H, W))


def sample_own_points(maps: jax.Array, points: jax.Array) -> jax.Array:
    """Every map at points of its own: ``maps [M, B, H, W], points [M, B, P, 2] -> float32 [M, B, P]``."""

    def one_map(map_and_points: tuple[jax.Array, jax.Array]) -> jax.Array:
        values, points = map_and_points
        B, H, W = values.shape
        values = values.reshape(B, H * W)
        return sum(share * take(values, index) for index, share in corners(points, H, W))

    # One after the other, so that what is sampled is stored, and the map stays in the cache.
    return jax.lax.map(one_map, (maps, points))


def smallest(values: jax.Array, count: int) -> jax.Array:
    """Places of the smallest of numbers that are not negative, in no order; of equal ones the first.

    A sort of thousands would cost more than all the rest of the loss. The bits of such numbers are ordered as they are.

    Args:
        values: float32 ``[..., N]``.
        count: number of places.

    Returns:
        int32 ``[..., count]``.
    """
    bits = jax.lax.bitcast_convert_type(values, jnp.int32)

    def add_bit(i: jax.Array, last: jax.Array) -> jax.Array:
        """Towards the largest number that fewer than ``count`` are below."""
        higher = last + (1 << (30 - i))
        return jnp.where((bits < higher[..., None]).sum(-1) < count, higher, last)

    last = jax.lax.fori_loop(0, 31, add_bit, jnp.zeros(bits.shape[:-1], jnp.int32))[..., None]
    below, equal = bits < last, bits == last
    behind = below.sum(-1, keepdims=True) + jnp.cumsum(equal, -1)
    ranks = jnp.where(below, jnp.cumsum(below, -1), jnp.where(equal, behind, count + 1)) - 1

    def one_row(ranks: jax.Array) -> jax.Array:
        return jnp.zeros(count, jnp.int32).at[ranks].set(jnp.arange(len(ranks)), mode="drop")

    return jnp.vectorize(one_row, signature="(n)->(k)")(ranks)


def uncertain_points(logits: jax.Array, points: Points) -> jax.Array:
    """The P points of the mask losses: the candidates with logits closest to 0, and the others (section 3.3).

    Args:
        logits: mask logits, ``[M, B, h, w]``; no gradient passes.
        points: see `Points`, but ``[M, B, 3 P, 2]`` and ``[M, B, P / 4, 2]``.

    Returns:
        ``[M, B, P, 2]``.
    """
    count = points.candidates.shape[-2] // OVERSAMPLING - points.others.shape[-2]
    certainty = jnp.abs(sample_own_points(jax.lax.stop_gradient(logits), points.candidates))
    chosen = jnp.take_along_axis(points.candidates, smallest(certainty, count)[..., None], axis=-2)
    return jnp.concatenate([chosen, points.others], axis=-2)


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
    logits, truth = sample_points(prediction.mask_logits, points), sample_masks(targets, points)

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
