"""What a training tells of masks that are found again and of nouns, and the pictures that it draws of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gella_jax.model import EntityPredictions
from gella_jax.training import validation
from grounding_jax.language.rows import IGNORED
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


CELLS = np.array(
    [[[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 3, 3], [0, 0, 3, 3]], [[1, 1, 1, 2], [1, 1, 1, 2], [0, 0, 3, 3], [0] * 4]]
)
NO = -3.0


def test_nouns():
    """Of two pictures whose masks 1, 2 and 3 have queries 2, 3 and 4; the others, however sure, have no say.

    In the second the masks take up 6, 2 and 2 places. A fourth mask is hidden.
    """
    logits = np.full((2, 5, 4, 4), -9.0, np.float32)
    logits[:, 2:] = np.where(CELLS[:, None] == np.array([1, 2, 3])[:, None, None], 9.0, -9.0)
    last = Prediction(jnp.zeros((2, 5, 2)), jnp.asarray(logits), jnp.zeros((2, 5, 8)))
    # Per noun: the masks that it means, whether it is absent, and its logits of the masks.
    nouns = [
        [
            ((0,), False, (NO, 2, NO)),
            ((0, 1, 2), False, (1, 2, 0.1)),
            ((), False, (1, 1, 1)),
            ((), True, (NO, -1, NO)),
        ],
        [
            ((0, 1), False, (0.5, -1, -2)),
            ((2,), False, (-0.3, -0.2, -0.1)),
            ((), True, (1, NO, NO)),
            ((3,), False, (2, 2, 2)),
        ],
    ]
    meant, absent = np.zeros((2, 4, 5), bool), np.zeros((2, 4), bool)
    association = np.full((2, 4, 5), 50.0, np.float32)
    for b, row in enumerate(nouns):
        for noun, (masks, is_absent, values) in enumerate(row):
            meant[b, noun, list(masks)], absent[b, noun], association[b, noun, 2:] = True, is_absent, values
    labels = np.array([[IGNORED, 1, 2], [0, IGNORED, 2]])
    text = np.zeros((2, 3, 4), np.float32)
    text[[0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], [3, 1, 0, 0, 1, 2]] = 1  # 3 of the 4 labels
    batch = {
        "index": np.kron(CELLS, np.ones((1, 4, 4), int)),
        "visible": np.array([[True, True, True, False, False]] * 2),
        "meant": meant,
        "absent": absent,
        "labels": labels,
    }
    outputs = {"entities": EntityPredictions(last, ()), "association": association, "logits": text}
    sums, shown = validation.measure(*jax.tree.map(jnp.asarray, (outputs, batch)))
    found = {name: (pytest.approx(float(total)), int(count)) for name, (total, count) in sums.items()}
    # A noun that chooses another mask, one with all, one with 6 of 8 places, and one whose best is below one half.
    assert found == {"AR": (0 + 1 + 6 / 8 + 1, 4), "absent": (1, 2), "mask_IoU": (6, 6), "tokens": (3, 4)}
    chosen = [[np.flatnonzero(noun).tolist() for noun in row] for row in np.asarray(shown["chosen"])]
    assert chosen == [[[1], [0, 1, 2], [0, 1, 2], [1]], [[0], [2], [0], [0, 1, 2]]]
