"""GELLA's loss, L_seg + L_asso + L_ans (eq. 5 and 10; spec gella b).

    batch = prepare(weights, batch, queries)                     # of the whole batch: known from the data alone
    loss, terms = batch_loss(weights, forward(config, params, batch), batch, keys)

L_seg is that of Mask2Former. A term is the sum over the pictures of a batch over that of their counts. The counts are
known before a batch is cut up, so the number does not depend on how pictures are spread over devices or accumulation
steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gella_jax.association import association_loss, association_targets
from gella_jax.matching import (
    Points,
    SegmentationWeights,
    Targets,
    assign,
    costs,
    draw_points,
    entity_targets,
    sample_own_points,
    some_masks,
    take,
    uncertain_points,
)
from grounding_jax.models.mask2former import Prediction
from grounding_jax.training.losses import cross_entropy, group_weights, token_counts

MASKS_TOGETHER = 10  # compared at a time


@dataclasses.dataclass(frozen=True)
class LossWeights:
    """Weights of the three losses (eq. 5), and of the terms of the first.

    Attributes:
        segmentation: weight of L_seg, that of the entities and their masks.
        association: weight of L_asso, that of which entities a noun means.
        answer: weight of L_ans, that of the text.
        terms: inside L_seg.
    """

    segmentation: float = 1.0
    association: float = 1.0
    answer: float = 1.0
    terms: SegmentationWeights = SegmentationWeights()


def prepare(weights: LossWeights, batch: dict[str, jax.Array], queries: int) -> dict[str, jax.Array]:
    """The batch with what each picture's sums are multiplied with, ``[B]``, for `batch_loss`.

    Args:
        weights: weights of the terms.
        batch: whole, with ``visible`` bool ``[B, E]`` and ``segmented`` bool ``[B]``, whether anything is known of the
            picture's entities; where there are nouns ``meant`` bool ``[B, M, E]`` and ``absent`` bool ``[B, M]``; where
            there is text ``labels`` int32 ``[B, T]``.
        queries: Q.
    """
    classes, masks = segmentation_counts(weights.terms, batch["visible"], queries)
    rows = batch["segmented"]
    added = {"class_weight": row_weights(classes, rows), "mask_weight": row_weights(masks, rows)}
    if "meant" in batch:
        nouns = told_nouns(batch).sum(1)
        added["noun_weight"] = group_weights(nouns, len(nouns))
    if "labels" in batch:
        tokens = token_counts(batch["labels"])
        added["token_weight"] = group_weights(tokens, len(tokens))
    return {**batch, **added}


def told_nouns(batch: dict[str, jax.Array]) -> jax.Array:
    """The nouns that the association is taught, bool ``[B, M]``: those with a visible mask, and the absent ones."""
    return (batch["meant"] & batch["visible"][:, None]).any(2) | batch["absent"]


def batch_loss(
    weights: LossWeights, outputs: dict, batch: dict[str, jax.Array], keys: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array], jax.Array]:
    """The loss of a batch, or of a part of it: the mean over equal parts is that of the whole.

    Args:
        weights: weights of the terms.
        outputs: those of `model.forward`.
        batch: rows as `prepare` gave them, with ``index`` int ``[B, S, S]``, see `colormap.EntityMap`.
        keys: ``[B]``, one for each picture: of the points at which masks are compared.

    Returns:
        ``(loss, terms, query_of_entity)``: the terms "classes", "mask", "dice", and where there are nouns and text
        "association" and "answer", already weighted; and int32 ``[B, E]``, see `matching.assign`.
    """
    entities = outputs["entities"]
    predictions = (*entities.earlier, entities.last)
    targets = entity_targets(batch["index"], batch["visible"])
    points = layer_points(weights.terms, keys, len(predictions), batch["visible"].shape[1])
    sums, queries = segmentation_sums(weights.terms, predictions, targets, points)
    segmentation, terms = segmentation_loss(weights.terms, sums, batch["class_weight"], batch["mask_weight"])
    loss = weights.segmentation * segmentation
    if "association" in outputs:
        wanted, _ = association_targets(batch["meant"], batch["visible"], queries[-1], outputs["association"].shape[2])
        nouns, _ = association_loss(outputs["association"], wanted, told_nouns(batch))
        terms["association"] = weights.association * (batch["noun_weight"] * nouns).mean()
        loss += terms["association"]
    if "logits" in outputs:
        tokens = cross_entropy(outputs["logits"], batch["labels"])
        terms["answer"] = weights.answer * (batch["token_weight"] * tokens).mean()
        loss += terms["answer"]
    return loss, terms, queries[-1]


class SegmentationSums(NamedTuple):
    """Terms of the loss of every layer and picture, summed over queries or masks and not weighted yet, ``[L, B]``."""

    classes: jax.Array
    mask: jax.Array
    dice: jax.Array


def layer_points(weights: SegmentationWeights, keys: jax.Array, layers: int, masks: int) -> list[Points]:
    """Random points for every layer: ``keys [B]``, one for each picture, L layers, M masks."""
    layer_keys = [jax.vmap(jax.random.fold_in, (0, None))(keys, layer) for layer in range(layers)]
    return [draw_points(weights, keys, masks) for keys in layer_keys]


def class_sum(
    weights: SegmentationWeights, logits: jax.Array, classes: jax.Array, query_of_target: jax.Array
) -> jax.Array:
    """Weighted cross entropy of the classes, summed over queries; those without a mask are "no object".

    Args:
        weights: says how much those count.
        logits: ``[B, Q, C + 1]``.
        classes: int32 ``[B, M]``.
        query_of_target: int32 ``[B, M]``, -1 for none.

    Returns:
        float32 ``[B]``; see `segmentation_counts` for what to divide it by.
    """
    nothing = logits.shape[2] - 1
    given = query_of_target[..., None] == jnp.arange(logits.shape[1])
    labels = nothing + jnp.where(given, classes[..., None] - nothing, 0).sum(1)
    terms = optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)
    return (terms * jnp.where(labels == nothing, weights.no_object, 1.0)).sum(1)


def mask_sums(
    logits: jax.Array, targets: Targets, query_of_target: jax.Array, points: Points
) -> tuple[jax.Array, jax.Array]:
    """BCE and dice of masks and their queries at the points where these are uncertain, summed over masks.

    Args:
        logits: ``[B, Q, h, w]``.
        targets: M masks.
        query_of_target: int32 ``[B, M]``; masks without one, -1, have no say.
        points: see `Points`.

    Returns:
        ``(bce [B], dice [B])``, float32: the mean over points, and 1 - dice with 1 added to both sides of the fraction.
    """
    logits, counted = take(logits, jnp.maximum(query_of_target, 0)), query_of_target >= 0

    def choose(which: jax.Array, logits: jax.Array) -> jax.Array:
        own = (jnp.moveaxis(x[:, which], 1, 0) for x in (points.candidates, points.others))
        return uncertain_points(logits, Points(None, *own))

    def compare(which: jax.Array, logits: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
        return mask_terms(logits, jnp.moveaxis(some_masks(targets, which), 1, 0), places)

    places = over_groups(choose, counted, jax.lax.stop_gradient(logits))
    bce, dice = over_groups(compare, counted, logits, places)
    return jnp.where(counted, bce, 0.0).sum(1), jnp.where(counted, dice, 0.0).sum(1)


def mask_terms(logits: jax.Array, masks: jax.Array, places: jax.Array) -> tuple[jax.Array, jax.Array]:
    """BCE and dice ``[M, B]`` of logits ``[M, B, h, w]`` and masks ``[M, B, H, W]`` at points ``[M, B, P, 2]``."""
    logits, truth = sample_own_points(logits, places), sample_own_points(masks, places)
    p = jax.nn.sigmoid(logits)
    dice = 1 - (2 * (p * truth).sum(-1) + 1) / (p.sum(-1) + truth.sum(-1) + 1)
    return optax.sigmoid_binary_cross_entropy(logits, truth).mean(-1), dice


def over_groups(function: Callable, counted: jax.Array, *arrays: jax.Array) -> Any:
    """Applies a function to some masks at a time; groups in which none counts cost nothing.

    There is room for as many masks as queries, but most pictures have far fewer.

    Args:
        function: takes the places of some masks, int32 ``[N]``, and their ``arrays [N, B, ...]``; gives a tree of such.
        counted: bool ``[B, M]``.
        arrays: ``[B, M, ...]``.

    Returns:
        The tree, of arrays ``[B, M, ...]``; 0 where nothing was computed.
    """
    M = counted.shape[1]
    N = max(number for number in range(1, MASKS_TOGETHER + 1) if M % number == 0)

    @jax.checkpoint
    def one_group(group: tuple[jax.Array, ...]) -> Any:
        counted, *arguments = group
        shapes = jax.eval_shape(function, *arguments)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.cond(counted.any(), lambda: function(*arguments), lambda: zeros)

    def grouped(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 1, 0)
        return x.reshape(M // N, N, *x.shape[1:])

    groups = grouped(counted), jnp.arange(M).reshape(-1, N), *map(grouped, arrays)
    found = jax.lax.map(one_group, groups)
    return jax.tree.map(lambda x: jnp.moveaxis(x.reshape(M, *x.shape[2:]), 0, 1), found)


def segmentation_sums(
    weights: SegmentationWeights, predictions: Sequence[Prediction], targets: Targets, points: Sequence[Points]
) -> tuple[SegmentationSums, jax.Array]:
    """The terms of L_seg; every layer is matched by itself.

    Args:
        weights: see `SegmentationWeights`.
        predictions: one prediction for each of the L layers, the last one last.
        targets: M masks, padding included.
        points: for each of the layers, as `layer_points` draws them.

    Returns:
        ``(sums, query_of_target)``: the latter int32 ``[L, B, M]``; the association wants that of the last layer.
    """
    layers = list(zip(predictions, points, strict=True))
    # One assignment for the costs of all layers: it is a loop of small steps, and takes them all at once.
    layer_costs = jnp.stack([costs(weights, prediction, targets, places.matching) for prediction, places in layers])
    matches = assign(layer_costs, jnp.broadcast_to(targets.valid, (len(layers), *targets.valid.shape)))
    terms = [
        (
            class_sum(weights, prediction.class_logits, targets.classes, queries),
            *mask_sums(prediction.mask_logits, targets, queries, places),
        )
        for (prediction, places), queries in zip(layers, matches, strict=True)
    ]
    return SegmentationSums(*map(jnp.stack, zip(*terms, strict=True))), matches


def segmentation_counts(weights: SegmentationWeights, valid: jax.Array, queries: int) -> tuple[jax.Array, jax.Array]:
    """What the sums of pictures are divided by: ``valid bool [B, M]``, Q queries.

    Returns:
        ``(classes [B], masks [B])``, float32: the weights of all queries, and how many masks there are, also those that
        no query is left for.
    """
    masks = valid.sum(1)
    matched = jnp.minimum(masks, queries)
    return matched + weights.no_object * (queries - matched), masks.astype(jnp.float32)


def row_weights(counts: jax.Array, rows: jax.Array) -> jax.Array:
    """What a picture's sum is multiplied with, so that the mean over a batch is (sum of sums / sum of counts).

    Args:
        counts: float32 ``[B]``, for the whole batch, before it is cut into micro-batches.
        rows: bool ``[B]``, the pictures that count.

    Returns:
        float32 ``[B]``; 0 where nothing counts.
    """
    return jnp.where(rows, group_weights(jnp.where(rows, counts, 0.0), len(counts)), 0.0)


def segmentation_loss(
    weights: SegmentationWeights, sums: SegmentationSums, class_weight: jax.Array, mask_weight: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_seg of a batch, or of a part of it: the mean over equal parts is that of the whole.

    Args:
        weights: weights of the terms.
        sums: see `segmentation_sums`.
        class_weight, mask_weight: `row_weights` of the two `segmentation_counts`, ``[B]``.

    Returns:
        ``(loss, {"classes", "mask", "dice"})``, the terms already weighted and summed over layers.
    """
    terms = {
        "classes": weights.classes * (class_weight * sums.classes).mean(1).sum(),
        "mask": weights.mask * (mask_weight * sums.mask).mean(1).sum(),
        "dice": weights.dice * (mask_weight * sums.dice).mean(1).sum(),
    }
    return sum(terms.values()), terms
