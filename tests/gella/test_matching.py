"""What makes the loss fast changes no number: selection without a sort, maps of numbers, masks some at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gella_jax import losses, matching
from gella_jax.matching import SegmentationWeights, Targets
from grounding_jax.models.mask2former import Prediction

WEIGHTS = SegmentationWeights(points=16)


@pytest.mark.parametrize("count", [1, 10, 40])
def test_the_smallest_are_those_of_a_stable_sort(count):
    """Many that are equal, zeros, and what is not finite."""
    values = np.random.default_rng(0).integers(0, 6, (3, 4, 40)).astype(np.float32) / 7
    values[0, 0], values[0, 1, :30], values[0, 2, ::3] = 0.25, np.inf, np.nan
    chosen = np.sort(matching.smallest(jnp.asarray(values), count))
    np.testing.assert_array_equal(chosen, np.sort(np.argsort(values, axis=-1, kind="stable")[..., :count]))


@pytest.fixture(scope="module")
def pictures() -> tuple[jax.Array, Targets, Targets]:
    """Mask logits of two pictures with 7 and 12 of 20 masks, and these as a map of numbers and one by one."""
    rng, M = np.random.default_rng(1), 20
    index = np.zeros((2, 24, 24), np.int16)
    for picture, count in zip(index, (7, 12), strict=True):
        picture[2:20] = rng.integers(1, count + 1, (18, 24))
    valid = np.arange(M) < np.array([[7], [12]])
    numbered = matching.entity_targets(index, valid)
    own = numbered._replace(masks=index[:, None] == np.arange(1, M + 1)[:, None, None])
    return jnp.asarray(rng.normal(size=(2, M, 6, 6)), jnp.float32), numbered, own


def test_a_map_of_numbers_is_masks_one_by_one(pictures):
    """In costs, and in the loss and its gradient."""
    logits, numbered, own = pictures
    points = losses.layer_points(WEIGHTS, jax.random.split(jax.random.key(0), 2), 1, 20)[0]
    queries = np.where(numbered.valid, np.random.default_rng(2).permutation(20), -1)

    @jax.jit
    def run(targets):
        def total(logits):
            bce, dice = losses.mask_sums(logits, targets, queries, points)
            return bce.sum() + 2 * dice.sum()

        cost = matching.costs(WEIGHTS, Prediction(jnp.zeros((2, 20, 2)), logits, None), targets, points.matching)
        return cost, *jax.value_and_grad(total)(logits)

    for found, wanted in zip(run(numbered), run(own), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_masks_are_compared_some_at_a_time_or_all_at_once(pictures, monkeypatch):
    """Also those that fill no group, in a picture that has none where another one has; the others get no gradient."""
    logits, targets, _ = pictures
    points = losses.layer_points(WEIGHTS, jax.random.split(jax.random.key(0), 2), 1, 20)[0]
    queries = np.where(targets.valid, np.arange(20), -1)

    def run(together):
        monkeypatch.setattr(losses, "MASKS_TOGETHER", together)

        def total(logits):
            bce, dice = losses.mask_sums(logits, targets, queries, points)
            return bce.sum() + 2 * dice.sum(), (bce, dice)

        return jax.jit(jax.value_and_grad(total, has_aux=True))(logits)

    (_, some), gradient = run(5)
    (_, at_once), wanted = run(20)
    np.testing.assert_allclose(some, at_once, rtol=1e-6)
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6, atol=1e-7)
    assert (np.abs(gradient).max((2, 3)) > 0).tolist() == targets.valid.tolist()


def test_masks_of_a_picture_have_the_same_points_moved_around():
    """So each has uniform ones, and those of two are different."""
    points = matching.draw_points(WEIGHTS, jax.random.split(jax.random.key(0), 2), 3)
    for drawn in (np.asarray(points.candidates), np.asarray(points.others)):
        steps = (drawn[:, 1:] - drawn[:, :1]) % 1
        away = np.abs(steps - steps[:, :, :1])
        np.testing.assert_allclose(np.minimum(away, 1 - away), 0, atol=1e-6)
        assert not np.allclose(drawn[:, 1], drawn[:, 0]) and not np.allclose(drawn[0], drawn[1])
