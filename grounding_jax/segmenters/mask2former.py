"""Masks of a Mask2Former, whatever its classes are, shown pictures as detectron2 does.

[proposals] = segment_entities(backbone, config, params, [image], dtype)  # best first

Those of entities and of a panoptic model are made disjoint, as CropFormer does; those of instances overlap.
"""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grounding_jax.data.picture_resize import resize_longest
from grounding_jax.inference.engine import fetch
from grounding_jax.language.batching import pad_batch
from grounding_jax.models import mask2former, swin
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mask_resize import resize_masks, resize_matrix
from grounding_jax.models.normalize import normalize_sam
from grounding_jax.models.swin import SwinConfig
from grounding_jax.segmenters.proposals import Proposals, as_entities, sigmoid
from grounding_jax.sharding.mesh import num_rows, split_batch

# How detectron2 shows a picture to a Mask2Former when it is tested, in pixels.
SHORTEST = 800  # of the sides
LONGEST = 1333  # that the other side may become; then the shortest is less
DIVISOR = 32  # of the sides once they are padded
MOST_QUERIES = 100  # that CropFormer paints, and that are a Mask2Former's instances
Frame = tuple[int, int]  # pixels of the shortest side, and the most of the other one
ENTITIES, INSTANCES, PANOPTIC = 1, 80, 133  # classes of EntitySeg's models and of COCO's, which tell them apart


def mask2former_input(image: np.ndarray, frame: Frame | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Resizes uint8 [H, W, 3] as detectron2 does for testing, and pads it at the right and the bottom.

    The shortest side becomes `SHORTEST`, or less where the other one would be more than `LONGEST` (the sizes of both
    are those of detectron2's `ResizeShortestEdge`); a ``frame`` has two other numbers.

    Returns:
        The padded uint8 picture, whose sides `DIVISOR` divides, and the (height, width) that it takes up in there.
    """
    resized = resize_longest(image, resized_longest(image.shape[:2], frame))
    height, width = resized.shape[:2]
    return np.pad(resized, ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0))), (height, width)


def resized_longest(size: tuple[int, int], frame: Frame | None = None) -> int:
    """The longest side of a picture of (height, width) as a Mask2Former sees it."""
    shortest, longest = frame or (SHORTEST, LONGEST)
    return min(longest, int(shortest * max(size) / min(size) + 0.5))


def segment_entities(
    backbone: SwinConfig,
    config: Mask2FormerConfig,
    params: dict,
    images: Sequence[np.ndarray],
    dtype,
    mesh: Mesh | None = None,
    frame: Frame | None = None,
) -> list[Proposals]:
    """Masks of the entities in each of some pictures uint8 [H, W, 3], best first; ``frame``: see `mask2former_input`.

    They are those of `overlapping` for a model of COCO's instances, else of `non_overlapping`.

    Pictures that are padded to one size go through the devices of the mesh together, one on each.
    """
    inputs = [mask2former_input(image, frame) for image in images]
    alike = collections.defaultdict(list)  # places of pictures by their padded size
    for place, (padded, _) in enumerate(inputs):
        alike[padded.shape].append(place)
    rows, answers = num_rows(mesh), {}
    for places in alike.values():
        for start in range(0, len(places), rows):
            chunk = places[start : start + rows]
            padded, resized = zip(*(inputs[place] for place in pad_batch(chunk, rows)), strict=True)
            batch = split_batch(mesh, (np.stack(padded), np.array(resized, np.int32)))
            logits = _predict(backbone, config, params, *batch, dtype)
            answers |= {place: (logits, row) for row, place in enumerate(chunk)}
    proposals, read = [], overlapping if config.classes == INSTANCES else non_overlapping
    for place, (image, (padded, resized)) in enumerate(zip(images, inputs, strict=True)):
        logits, row = answers.pop(place)
        classes, masks = (fetch(x[row]) for x in logits)
        matrices = _matrices(masks.shape[1:], padded.shape[:2], resized, image.shape[:2])
        proposals.append(read(classes, masks, matrices))
    return proposals


@functools.partial(jax.jit, static_argnames=("backbone", "config", "dtype"))
def _predict(
    backbone: SwinConfig, config: Mask2FormerConfig, params: dict, padded: jax.Array, resized: jax.Array, dtype
) -> tuple[jax.Array, jax.Array]:
    """Pictures uint8 ``[B, H, W, 3]`` -> float32 logits of classes ``[B, Q, C + 1]``, of masks ``[B, Q, H/4, W/4]``.

    It is compiled once for every padded size, of which there are few.
    """
    pixels = normalize_sam(padded, resized).astype(dtype)  # SAM's constants are ImageNet's
    maps = swin.pyramid(backbone, params["backbone"], pixels)
    last, _ = mask2former.predict(config, params, [x.astype(jnp.float32) for x in maps])
    return last.class_logits, last.mask_logits


def _matrices(
    low: tuple[int, int], padded: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices [H, h] and [W, w] from logits to the padded picture, of which the inside is resized to the picture."""
    axes = zip(low, padded, resized, size, strict=True)
    rows, columns = (
        resize_matrix(length, inside) @ resize_matrix(frame, grid)[:inside] for grid, frame, inside, length in axes
    )
    return rows, columns


def non_overlapping(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    matrices: tuple[np.ndarray, np.ndarray],
    most: int = MOST_QUERIES,
) -> Proposals:
    """Makes the queries of a Mask2Former disjoint, as CropFormer does (spec gella D0).

    The most probable queries are painted over one another, the most probable last, so that it wins. Each keeps the
    pixels that are still seen of it. Its score is its probability times the mean probability of its mask there.

    Of several classes, the probability of a query is that of its most probable class, "nothing" left out: which class
    that is does not count. So a panoptic model is read by the same rule as one of entities, and not by the thresholds
    of its own panoptic merge.

    Args:
        class_logits: [Q, C + 1], the last one of nothing.
        mask_logits: [Q, h, w].
        matrices: [H, h] and [W, w], from the logits to the picture: see `mask_matrices`.
        most: queries that are painted at all.

    Returns:
        Proposals; left out are queries that are "improbable", not among the ``most``, and "unseen", empty or covered,
        which the release returns as empty masks.

    Raises ValueError if the shapes are wrong.
    """
    margin, painted = _most_probable(class_logits, mask_logits, most)
    size = tuple(len(matrix) for matrix in matrices)
    owner, seen = np.zeros(size, np.int32), np.zeros(size, np.float32)  # query + 1 and its logit, pixel by pixel
    for query in painted[::-1]:
        logits = resize_masks(mask_logits[query], *matrices)
        inside = logits > 0
        owner[inside], seen[inside] = query + 1, logits[inside]

    # Once: the release takes the sigmoid twice here, which only rescales the scores.
    area, total = (np.bincount(owner.ravel(), w, len(margin) + 1)[1:] for w in (None, sigmoid(seen).ravel()))
    scores = sigmoid(margin) * total / np.maximum(area, 1)
    kept = painted[area[painted] > 0]
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    left_out = {"improbable": len(margin) - len(painted), "unseen": len(painted) - len(kept)}
    return Proposals(as_entities(owner == kept[:, None, None] + 1, kept, scores[kept]), left_out)


def overlapping(
    class_logits: np.ndarray,
    mask_logits: np.ndarray,
    matrices: tuple[np.ndarray, np.ndarray],
    most: int = MOST_QUERIES,
) -> Proposals:
    """The most probable queries of a Mask2Former as they are, as its release reads instances.

    A mask is where its logits are above 0, whatever else is there. Scores are as in `non_overlapping`, over its own
    pixels. The release takes the ``most`` probable pairs of a query and a class, so that a mask may be there under
    several classes; here a query is there once, with its most probable class.

    Args and errors are those of `non_overlapping`; "unseen" are queries whose masks are empty.
    """
    margin, chosen = _most_probable(class_logits, mask_logits, most)
    masks, scores = [], np.zeros(len(margin))
    for query in chosen:
        logits = resize_masks(mask_logits[query], *matrices)
        masks.append(logits > 0)
        scores[query] = sigmoid(margin[query]) * sigmoid(logits[masks[-1]]).mean() if masks[-1].any() else 0.0
    seen = np.array([mask.any() for mask in masks], bool)
    order = np.flatnonzero(seen)[np.argsort(-scores[chosen[seen]], kind="stable")]
    left_out = {"improbable": len(margin) - len(chosen), "unseen": int(np.count_nonzero(~seen))}
    return Proposals(as_entities(np.array(masks)[order], chosen[order], scores[chosen[order]]), left_out)


def _most_probable(class_logits: np.ndarray, mask_logits: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """For each query the logit of the probability of its best class, float64 [Q]; and the ``most`` probable queries.

    Unlike a probability, its logit is never rounded to that of 1.
    """
    class_logits, mask_logits = np.asarray(class_logits, np.float64), np.asarray(mask_logits)
    if class_logits.ndim != 2 or class_logits.shape[1] < 2 or mask_logits.shape[:1] != class_logits.shape[:1]:
        shapes = [list(logits.shape) for logits in (class_logits, mask_logits)]
        raise ValueError(
            f"logits must be [Q, C + 1] for classes and [Q, h, w] for masks, got {shapes[0]} and {shapes[1]}"
        )
    best = class_logits[:, :-1].argmax(1)
    others = class_logits.copy()
    others[np.arange(len(best)), best] = -np.inf
    margin = class_logits[:, :-1].max(1) - np.logaddexp.reduce(others, axis=1)
    return margin, np.argsort(-margin, kind="stable")[:most]
