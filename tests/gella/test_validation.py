"""What a training tells of a colormap's masks that are found again, and the picture that it draws of them."""

import jax.numpy as jnp
import numpy as np
import pytest

from gella_jax.model import EntityPredictions
from gella_jax.training import validation
from grounding_jax.models.mask2former import Prediction
from tests.small_gella import small_config, small_tokenizer

pytestmark = pytest.mark.quick

INDEX = np.kron([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 3, 3], [0, 0, 3, 3]], np.ones((4, 4), int))
COLOURS = np.array([[0, 0, 0], [200, 10, 10], [10, 200, 10], [10, 10, 200]], np.uint8)


def measured(found: np.ndarray) -> tuple[dict, dict]:
    """Of three masks and five queries, of which the last three have what is found of masks 1, 2 and 3."""
    logits = np.full((1, 5, 4, 4), -9.0, np.float32)
    logits[0, 2:] = np.where(found == np.array([1, 2, 3])[:, None, None], 9.0, -9.0)
    classes = np.zeros((1, 5, 2), np.float32)
    last = Prediction(jnp.asarray(classes), jnp.asarray(logits), jnp.zeros((1, 5, 8)))
    batch = {"index": jnp.asarray(INDEX[None]), "visible": jnp.array([[True, True, True, False, False]])}
    return validation.measure({"entities": EntityPredictions(last, ())}, batch)


def test_masks_alone():
    truth = INDEX[::4, ::4]
    sums, shown = measured(truth)
    total, count = sums["mask_IoU"]
    assert (float(total), int(count)) == (3, 3)
    np.testing.assert_array_equal(shown["found"][0], truth)
    half = truth.copy()
    half[0, 0] = half[3, 3] = 0  # 3 of 4 places of masks 1 and 3
    sums, shown = measured(half)
    assert float(sums["mask_IoU"][0]) == pytest.approx(0.75 + 1 + 0.75)
    example = {"colormaps": COLOURS[INDEX], "index": INDEX}
    picture = validation.draw(
        small_config(blend=None), small_tokenizer(), example, {"found": np.asarray(shown["found"][0])}
    )
    np.testing.assert_array_equal(picture[:, :16], COLOURS[INDEX])
    np.testing.assert_array_equal(picture[:, 16:], COLOURS[np.kron(half, np.ones((4, 4), int))])
