"""L_seg and its matching against the goldens and scipy's assignments, and what padding and empty pictures do to it."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from scipy.optimize import linear_sum_assignment

from gella_jax import losses, matching
from gella_jax.matching import Points, SegmentationWeights, Targets
from grounding_jax.models import mask2former, swin
from grounding_jax.models.mask2former import Prediction
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import mask2former as mask2former_weights
from grounding_jax.weights.tables import swin as swin_weights

# The whole model and its gradients run once, so most of their time is that of the compiler.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

PADDED = 6  # masks; the pictures of the golden have 4 and 2


def padded_targets(inputs: dict) -> Targets:
    counts = [len(inputs[f"loss.labels.{b}"]) for b in range(2)]
    targets = Targets(
        np.zeros((2, PADDED, *inputs["loss.masks.0"].shape[1:]), bool),
        np.zeros((2, PADDED), np.int32),
        np.arange(PADDED) < np.array(counts)[:, None],
    )
    for b, count in enumerate(counts):
        targets.masks[b, :count], targets.classes[b, :count] = inputs[f"loss.masks.{b}"], inputs[f"loss.labels.{b}"]
    targets.masks[1, 4] = True  # padding, whatever is in it
    return targets


def golden_points(inputs: dict, layer: str, pairs: list[np.ndarray]) -> Points:
    """The points of the golden, whose rows are the pairs of all pictures in the order of their queries."""
    given = {
        name: inputs[f"loss.points.{layer}.{name}"].astype(np.float32)
        for name in ("match.0", "match.1", "oversampled", "random")
    }
    candidates, others = (
        np.zeros((2, PADDED, *given[name].shape[1:]), np.float32) for name in ("oversampled", "random")
    )
    rows = [(b, mask) for b, (_, masks) in enumerate(pairs) for mask in masks]
    for row, slot in enumerate(rows):
        candidates[slot], others[slot] = given["oversampled"][row], given["random"][row]
    return Points(np.concatenate([given["match.0"], given["match.1"]]), candidates, others)


def golden_matches(pairs: list[np.ndarray]) -> np.ndarray:
    matches = np.full((2, PADDED), -1)
    for b, (queries, masks) in enumerate(pairs):
        matches[b, masks] = queries
    return matches


def test_golden(golden):
    """Assignments, every term of every layer, and gradients down to the first convolution of the backbone."""
    path = golden / "gella/m2f_hf"
    table, facts = mask2former_weights.transformers_with_swin(), json.loads((path / "config.json").read_text())
    leaves = table.to_ours(open_weights(path), str(path))
    config = mask2former_weights.config(leaves, heads=facts["num_attention_heads"])
    backbone = swin_weights.config(
        {name.removeprefix("backbone/"): leaf for name, leaf in leaves.items() if name.startswith("backbone/")}
    )
    inputs, outputs = (load_file(path / f"{name}.safetensors") for name in ("inputs", "outputs"))
    names = [f"layer{i}" for i in range(config.decoder_layers)] + ["final"]
    pairs = {name: [outputs[f"loss.assign.{name}.{b}"] for b in range(2)] for name in names}
    images = inputs["case0.pixel_values"].astype(np.float32).transpose(0, 2, 3, 1)
    targets, points = padded_targets(inputs), [golden_points(inputs, name, pairs[name]) for name in names]
    weights = SegmentationWeights(points=points[0].matching.shape[1])
    rows = np.ones(2, bool)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def run(params, images, targets, points):
        def loss(params):
            maps = swin.pyramid(backbone, params["backbone"], images)
            last, earlier = mask2former.predict(config, params, maps)
            sums, matches = losses.segmentation_sums(weights, (*earlier, last), targets, points)
            counts = losses.segmentation_counts(weights, targets.valid, config.queries)
            class_weight, mask_weight = (losses.row_weights(count, rows) for count in counts)
            total, terms = losses.segmentation_loss(weights, sums, class_weight, mask_weight)
            return total, (terms, sums, counts, matches)

        return jax.value_and_grad(loss, has_aux=True)(params)

    params = folder.to_params(leaves, np.float32)
    (total, (terms, sums, counts, matches)), gradients = run(params, images, targets, points)
    for layer, name in enumerate(names):
        np.testing.assert_array_equal(matches[layer], golden_matches(pairs[name]), err_msg=name)
        found = {
            "cross_entropy": sums.classes[layer].sum() / counts[0].sum(),
            "mask": sums.mask[layer].sum() / counts[1].sum(),
            "dice": sums.dice[layer].sum() / counts[1].sum(),
        }
        for term, value in found.items():
            wanted = outputs[f"loss.unweighted.loss_{term}.{name}"]
            np.testing.assert_allclose(value, wanted, rtol=1e-4, err_msg=f"{term} of {name}")
    np.testing.assert_allclose(total, outputs["loss.total_weighted"], rtol=1e-4)
    np.testing.assert_allclose(sum(terms.values()), total, rtol=1e-6)

    found = {key: leaf.read() for key, leaf in table.to_torch(folder.from_params(gradients), "gradients").items()}
    wanted = {key.removeprefix("grad."): value for key, value in outputs.items() if key.startswith("grad.")}
    assert wanted
    for key, value in wanted.items():
        # Single entries may be next to nothing beside the largest of the leaf.
        np.testing.assert_allclose(found[key], value, rtol=1e-3, atol=1e-5 * np.abs(value).max(), err_msg=key)
    norm = np.sqrt(sum(np.square(leaf, dtype=np.float64).sum() for leaf in jax.tree.leaves(gradients)))
    np.testing.assert_allclose(norm, outputs["grad_global_norm"], rtol=1e-3)


@pytest.mark.parametrize("masks", [4, 9])
def test_assignments_are_those_of_scipy(masks):
    """Padding anywhere, more masks than queries, and costs that are not finite, of a query and of everything."""
    Q, rng = 7, np.random.default_rng(masks)
    costs = (5 * rng.normal(size=(40, Q, masks))).astype(np.float32)
    valid = rng.random((40, masks)) < rng.random((40, 1))
    valid[0], valid[1] = True, False
    costs[2, 3], costs[3, :2] = np.nan, np.inf
    found = np.asarray(jax.jit(matching.assign)(costs, valid))
    for costs_of, valid_of, queries in zip(costs, valid, found, strict=True):
        usable = np.nan_to_num(costs_of[:, valid_of], nan=1e6, posinf=1e6)
        wanted = np.full(valid_of.sum(), -1)
        rows, columns = linear_sum_assignment(usable)
        wanted[columns] = rows
        assert queries[valid_of].tolist() == wanted.tolist()
        assert (queries[~valid_of] == -1).all()


def test_an_assignment_without_a_finite_cost_ends():
    found = matching.assign(jnp.full((1, 3, 2), jnp.nan), jnp.ones((1, 2), bool))
    assert len(set(found[0].tolist())) == 2 and (found >= 0).all()


def test_points_are_sampled_as_torch_does():
    """Masks as well as logits, also at the very border, half of which is outside."""
    rng = np.random.default_rng(0)
    maps, points = rng.normal(size=(2, 3, 4, 6)).astype(np.float32), rng.random((2, 9, 2), np.float32)
    points[:, :2] = [[0, 0], [1, 0.5]]
    for x in (maps, maps > 0):
        grid = torch.from_numpy(2 * points - 1)[:, :, None]
        wanted = torch.nn.functional.grid_sample(torch.from_numpy(x).float(), grid, align_corners=False)[..., 0]
        np.testing.assert_allclose(matching.sample_points(jnp.asarray(x), points), wanted, atol=1e-5)


def test_drawn_points():
    """A picture's points depend on its key alone; the losses keep the least certain three quarters."""
    weights, keys = SegmentationWeights(points=16), jax.random.split(jax.random.key(0), 3)
    draw = jax.jit(losses.layer_points, static_argnums=(0, 2, 3))
    first, second = draw(weights, keys, 2, 5)
    assert [x.shape for x in first] == [(3, 16, 2), (3, 5, 48, 2), (3, 5, 4, 2)]
    assert not np.array_equal(first.matching, second.matching)
    alone = draw(weights, keys[2:], 2, 5)[1]
    for whole, part in zip(second, alone, strict=True):
        np.testing.assert_array_equal(whole[2:], part)
        assert whole.min() >= 0 and whole.max() < 1 and abs(whole.mean() - 0.5) < 0.1
    # Logits that grow from left to right, and points none of which is near the zeros outside: those in the middle.
    logits = jnp.broadcast_to(jnp.linspace(-1, 1, 32), (3, 5, 32, 32))
    inner = first._replace(candidates=0.1 + 0.8 * first.candidates)
    places = matching.uncertain_points(logits, inner)
    np.testing.assert_array_equal(places[:, :, 12:], inner.others)
    distance = np.abs(np.asarray(inner.candidates[..., 0]) - 0.5)
    chosen = np.sort(np.abs(np.asarray(places[:, :, :12, 0]) - 0.5))
    np.testing.assert_allclose(chosen, np.sort(distance)[..., :12], atol=1e-6)


def test_queries_of_the_masks_of_a_colormap():
    """Every place has a say; a mask that is hidden, and padding, have no query."""
    index = np.zeros((1, 16, 16), np.int32)
    index[0, :8, :8], index[0, 8:, 4:], index[0, 2:8, 8:] = 1, 2, 4
    visible = np.array([[True, True, False, True, False]])
    targets = matching.entity_targets(index, visible)
    queries = np.array([[2, 4, -1, 0, -1]])
    logits = np.full((1, 5, 4, 4), -1.0, np.float32)
    for mask, query in enumerate(queries[0]):
        if query >= 0:
            logits[0, query] = np.where(index[0, ::4, ::4] == mask + 1, 2, -2)
    prediction = Prediction(jnp.zeros((1, 5, 2)), jnp.asarray(logits), None)
    np.testing.assert_array_equal(matching.match(SegmentationWeights(), prediction, targets), queries)


def test_parts_of_a_batch_add_up_and_a_picture_without_masks_has_classes_only():
    """Also one with more masks than queries, all of which are counted, and one that has no part in the loss."""
    B, Q, M, weights, rng = 4, 3, 5, SegmentationWeights(points=8), np.random.default_rng(0)
    predictions = [
        Prediction(*(rng.normal(size=(B, Q, *shape)).astype(np.float32) for shape in ((2,), (4, 4))), None)
        for _ in range(2)
    ]
    valid = np.arange(M) < np.array([[5], [0], [2], [3]])
    targets = Targets(rng.random((B, M, 8, 8)) < 0.5, np.zeros((B, M), np.int32), valid)
    draw = jax.jit(losses.layer_points, static_argnums=(0, 2, 3))
    points = draw(weights, jax.random.split(jax.random.key(1), B), 2, M)
    counts = losses.segmentation_counts(weights, valid, Q)
    np.testing.assert_allclose(counts, [[3, 0.3, 2.1, 3], [5, 0, 2, 3]], rtol=1e-6)
    row_weights = [losses.row_weights(count, np.array([True, True, True, False])) for count in counts]

    @jax.jit
    def run(predictions, targets, points, row_weights):
        sums, matches = losses.segmentation_sums(weights, predictions, targets, points)
        return losses.segmentation_loss(weights, sums, *row_weights)[0], sums, matches

    arguments = predictions, targets, points, row_weights
    loss, sums, matches = run(*arguments)
    first, second = (jax.tree.map(lambda x, i=i: x[i : i + 2], arguments) for i in (0, 2))
    np.testing.assert_allclose(loss, (run(*first)[0] + run(*second)[0]) / 2, rtol=1e-6)
    assert (np.asarray(matches) >= 0).sum(2).tolist() == [[3, 0, 2, 3]] * 2
    assert not sums.mask[:, 1].any() and not sums.dice[:, 1].any()
    for layer, prediction in enumerate(predictions):
        nothing = -jax.nn.log_softmax(prediction.class_logits[1])[:, 1].sum()
        np.testing.assert_allclose(sums.classes[layer, 1], 0.1 * nothing, rtol=1e-6)
    by_hand = 2 * sums.classes[:, :3].sum() / 5.4 + 5 * (sums.mask[:, :3].sum() + sums.dice[:, :3].sum()) / 7
    np.testing.assert_allclose(loss, by_hand, rtol=1e-6)
    assert not losses.row_weights(counts[1], np.zeros(B, bool)).any()
