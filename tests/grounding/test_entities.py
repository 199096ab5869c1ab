"""Masks that models propose: queries made disjoint, and SAM's automatic masks against transformers' parts of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.models.sam import image_processing_pil_sam as reference

from grounding_jax.data.picture_resize import resize_longest
from grounding_jax.files.masks import decode_mask
from grounding_jax.models.mask_resize import mask_matrices, resize_masks
from grounding_jax.models.normalize import SAM_MEAN, SAM_STD
from grounding_jax.segmenters import sam as sam_masks
from grounding_jax.segmenters.mask2former import non_overlapping, overlapping
from grounding_jax.segmenters.sam import PointGrid, grid_points, segment_everything, suppress
from tests.grounding.test_sam import Pair, make_pair

pytestmark = pytest.mark.quick

Q, LOW, FRAME, RESIZED, SIZE = 12, 8, 32, (24, 32), (15, 20)
MATRICES = mask_matrices(LOW, FRAME, RESIZED, SIZE)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def draw_queries(seed: int, classes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Logits of queries: blobs anywhere, some of which lie below others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:LOW, :LOW]
    cy, cx, radius = rng.uniform(0, LOW, (2, Q, 1, 1)), rng.uniform(0, LOW, (Q, 1, 1)), rng.uniform(0.3, 4, (Q, 1, 1))
    logits = radius - np.hypot(y - cy[0], x - cx) + rng.normal(0, 0.3, (Q, LOW, LOW))
    return rng.normal(0, 2, (Q, classes + 1)).astype(np.float32), logits.astype(np.float32)


@pytest.mark.parametrize(("seed", "num_classes"), [(0, 1), (1, 1), (2, 1), (3, 5), (4, 5)])
def test_every_pixel_goes_to_the_most_probable_query_that_has_it(seed, num_classes):
    """Of several classes, that of the best counts, whichever it is."""
    classes, masks = draw_queries(seed, num_classes)
    entities, left_out, stability = non_overlapping(classes, masks, MATRICES, most=9)
    found, ids, scores = entities.masks, entities.ids, entities.scores
    probability = np.exp(classes[:, :-1]).max(1) / np.exp(classes).sum(1)
    logits = resize_masks(masks, *MATRICES)
    painted = np.argsort(probability)[-9:]
    claims = np.where((logits > 0) & np.isin(np.arange(Q), painted)[:, None, None], probability[:, None, None], -1)
    owner = np.where(claims.max(0) > 0, claims.argmax(0), -1)

    assert found.dtype == bool and found.shape == (len(ids), *SIZE)
    assert (found.sum(0) <= 1).all()
    assert set(ids) == set(owner[owner >= 0])
    for query, mask, score in zip(ids, found, scores, strict=True):
        np.testing.assert_array_equal(mask, owner == query)
        np.testing.assert_allclose(score, probability[query] * sigmoid(logits[query])[mask].mean(), rtol=1e-5)
    assert (np.diff(scores) <= 0).all()
    assert left_out == {"improbable": 3, "unseen": 9 - len(ids)}
    assert stability is None


@pytest.mark.parametrize(("seed", "num_classes"), [(0, 1), (1, 5), (2, 5)])
def test_masks_of_instances_stay_as_they_are(seed, num_classes):
    """The most probable queries, each once, and none of them is hidden by another."""
    classes, masks = draw_queries(seed, num_classes)
    masks[3] = -1  # empty
    classes[3, 0] = 20
    (found, ids, _, scores, *_), left_out, _ = overlapping(classes, masks, MATRICES, most=9)
    probability = np.exp(classes[:, :-1].astype(float)).max(1) / np.exp(classes.astype(float)).sum(1)
    logits = resize_masks(masks, *MATRICES)
    wanted = {
        query: (probability[query] * sigmoid(logits[query])[logits[query] > 0].mean(), logits[query] > 0)
        for query in np.argsort(-probability)[:9].tolist()
        if (logits[query] > 0).any()
    }
    assert list(ids) == sorted(wanted, key=lambda query: -wanted[query][0]) and (found.sum(0) > 1).any()
    for query, mask, score in zip(ids, found, scores, strict=True):
        np.testing.assert_array_equal(mask, wanted[query][1])
        np.testing.assert_allclose(score, wanted[query][0], rtol=1e-5)
    assert left_out == {"improbable": 3, "unseen": 9 - len(wanted)} and left_out["unseen"] > 0
    none, left_out, _ = overlapping(classes[3:4], masks[3:4], MATRICES)
    assert none.masks.shape == (0, *SIZE) and left_out == {"improbable": 0, "unseen": 1}


def test_covered_and_empty_queries_are_counted_and_equals_go_to_the_first():
    low = np.full((5, LOW, LOW), -1, np.float32)
    low[0, :, :3] = low[1, :, :2] = low[3] = low[4] = 1  # 1 lies in 0, 2 is empty, 3 and 4 are all of the picture
    classes = np.array([[2, 0], [1, 0], [3, 0], [0, 0], [0, 0]], np.float32)
    entities, left_out, _ = non_overlapping(classes, low, MATRICES)
    assert entities.ids == (0, 3)
    assert entities.names == ("0", "3")
    assert entities.masks.any(0).all()
    assert left_out == {"improbable": 0, "unseen": 3}
    none, left_out, _ = non_overlapping(classes[2:3], low[2:3], MATRICES)
    assert none.masks.shape == (0, *SIZE) and none.ids == ()
    assert left_out == {"improbable": 0, "unseen": 1}


def test_extreme_logits_overflow_nowhere_and_still_have_an_order():
    with np.errstate(all="raise"):
        entities, _, _ = non_overlapping(
            np.array([[-300, 300], [300, -300], [301, -300]]), np.full((3, LOW, LOW), 1e4, np.float32), MATRICES
        )
    assert entities.ids == (2,)
    np.testing.assert_allclose(entities.scores, [1.0])


@pytest.mark.parametrize(("classes", "masks"), [((3, 1), (3, 2, 2)), ((3,), (3, 2, 2)), ((3, 2), (4, 2, 2))])
def test_wrong_shapes_of_logits_are_named(classes, masks):
    with pytest.raises(ValueError, match=r"\[Q, C \+ 1\] for classes and \[Q, h, w\] for masks, got " + r"\["):
        non_overlapping(np.zeros(classes), np.zeros(masks), MATRICES)


def box_iou(a, b) -> float:
    """Of two boxes x, y, width, height that overlap or not."""
    width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / max(a[2] * a[3] + b[2] * b[3] - shared, 1e-9)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_a_box_is_suppressed_if_and_only_if_a_better_one_that_is_kept_overlaps_it(count):
    rng = np.random.default_rng(count)
    boxes = np.concatenate([rng.integers(0, 6, (count, 2)), rng.integers(0, 9, (count, 2))], axis=1).astype(float)
    kept = suppress(boxes, 0.5)
    assert kept == sorted(kept)
    for i, box in enumerate(boxes):
        assert (i in kept) == all(box_iou(box, boxes[j]) <= 0.5 for j in kept if j < i)
    assert len(kept) < count or count < 2


@pytest.mark.parametrize("center", [3, 60])
def test_a_mask_at_the_pictures_size_needs_only_pixels_near_it(center):
    """Also where it is at the border, or nowhere."""
    low = 4.0 - np.hypot(*(np.mgrid[:LOW, :LOW] - center)).astype(np.float32)
    logits = resize_masks(low, *MATRICES)
    mask, stability = sam_masks._at_picture_size(low, MATRICES, 1.5)
    np.testing.assert_array_equal(mask, logits > 0)
    wanted = reference._compute_stability_score(torch.from_numpy(logits)[None], 0, 1.5).item()
    assert stability == pytest.approx(0 if center == 60 else wanted)
    if center == 3:
        x, y, width, height = sam_masks.box(mask)
        wanted = reference._batched_mask_to_box(torch.from_numpy(mask)[None])[0].tolist()
        assert [x, y, x + width, y + height] == wanted


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(grid=6, window=4, global_blocks=[0], layers=1)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (17, 25, 3), np.uint8)


@pytest.fixture(scope="module")
def answers(pair, image) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' model says at a grid of 5 x 5 points: logits [75, H, W] and predicted IoUs [75]."""
    side, (H, W) = pair.config.image_size, image.shape[:2]
    inside = resize_longest(image, side)
    pixels = np.zeros((1, 3, side, side), np.float32)
    normalized = (inside.astype(np.float32) - SAM_MEAN) / SAM_STD
    pixels[0, :, : inside.shape[0], : inside.shape[1]] = normalized.transpose(2, 0, 1)
    fractions = reference._build_point_grid(5).reshape(1, 25, 1, 2)
    points = torch.as_tensor(fractions, dtype=torch.float32) * torch.tensor([inside.shape[1], inside.shape[0]])
    with torch.no_grad():
        said = pair.theirs(
            pixel_values=torch.from_numpy(pixels),
            input_points=points,
            input_labels=torch.ones((1, 25, 1), dtype=torch.int64),
            multimask_output=True,
        )
        frame = torch.nn.functional.interpolate(said.pred_masks[0], (side, side), mode="bilinear")
        cropped = frame[..., : inside.shape[0], : inside.shape[1]]
        logits = torch.nn.functional.interpolate(cropped, (H, W), mode="bilinear")
    return logits, said.iou_scores[0]


def between(values, share: float) -> float:
    """A threshold that this share of the values is below, in the middle between two of them."""
    ordered = np.sort(np.ravel(values))
    return float(ordered[int(share * len(ordered)) - 1 :][:2].mean())


def test_automatic_masks_agree_with_transformers(pair, image, answers):
    """Thresholds are such that each leaves masks out; 25 points do not fill their batches of 7."""
    logits, iou = answers
    size = image.shape[:2]
    offset = 0.2 * logits.std().item()
    min_iou = between(iou, 0.1)
    steady = reference._compute_stability_score(logits.flatten(0, 1), 0, offset)[iou.flatten() > min_iou]
    grid = PointGrid(5, 7, min_iou, between(steady, 0.2), offset, 0.9)
    rles, scores, boxes = reference.SamImageProcessorPil().filter_masks(
        logits, iou, size, [0, 0, size[1], size[0]], grid.min_iou, grid.min_stability, 0, offset
    )
    order = np.argsort(-scores.numpy(), kind="stable")
    boxes = boxes.numpy().astype(float)[order]
    boxes[:, 2:] -= boxes[:, :2]
    wanted = []
    for i in range(len(boxes)):
        if all(box_iou(boxes[i], boxes[j]) <= grid.max_box_iou for j in wanted):
            wanted.append(i)
    masks = np.array([decode_mask(rles[order[i]], size) for i in wanted])

    [(entities, left_out, stability)] = segment_everything(pair.config, pair.params, [image], grid)
    np.testing.assert_array_equal(entities.masks, masks)
    np.testing.assert_allclose(entities.scores, scores.numpy()[order[wanted]], atol=2e-4)
    assert entities.ids == tuple(range(len(wanted)))
    for mask_stability in stability:
        assert np.isclose(steady, mask_stability, atol=1e-6).any()
    passed = int((iou > min_iou).sum())
    assert left_out == {"poor": 75 - passed, "unstable": passed - len(boxes), "repeated": len(boxes) - len(wanted)}
    assert min(left_out.values()) > 0 and len(wanted) > 1


def test_answers_are_float32_whatever_the_computation(pair):
    config, params = pair.config, pair.params
    side = config.image_size
    picture, inside = np.zeros((1, side, side, 3), np.uint8), np.array([[side, side]])
    embedding = jax.eval_shape(lambda p: sam_masks._encode_image(config, p, picture, inside, jnp.bfloat16), params)
    assert embedding.dtype == jnp.bfloat16
    logits, iou = jax.eval_shape(
        lambda *x: sam_masks._decode_masks(config, *x), params, embedding, np.zeros((1, 5, 2), np.float32)
    )
    assert (logits.shape, iou.shape) == ((1, 15, config.low_res, config.low_res), (1, 15))
    assert logits.dtype == iou.dtype == np.float32


def test_points_are_the_centres_of_cells():
    wanted = reference._build_point_grid(4).reshape(-1, 2) * [64, 48]
    np.testing.assert_allclose(grid_points(4, (48, 64)), wanted, rtol=1e-6)
