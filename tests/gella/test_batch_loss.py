"""The whole loss is sums over counts: the same however a batch is cut, and whatever its pictures lack."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gella_jax import losses
from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.model import EntityPredictions
from grounding_jax.language.rows import IGNORED
from grounding_jax.models.mask2former import Prediction

B, Q, M, T, V = 4, 6, 3, 5, 7
WEIGHTS = LossWeights(2.0, 3.0, 0.5, SegmentationWeights(points=8))


@pytest.fixture(scope="module")
def outputs() -> dict:
    """Of two layers."""
    rng = np.random.default_rng(0)

    def drawn(*shape) -> jax.Array:
        return jnp.asarray(rng.normal(size=(B, *shape)), jnp.float32)

    entities = EntityPredictions(*(Prediction(drawn(Q, 2), drawn(Q, 4, 4), drawn(Q, 3)) for _ in range(2)))
    return {
        "entities": entities._replace(earlier=(entities.earlier,)),
        "association": drawn(M, Q),
        "logits": drawn(T, V),
    }


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Pictures that lack nothing; masks; text to learn and nouns; and any knowledge of entities."""
    rng = np.random.default_rng(1)
    visible = np.arange(Q) < np.array([[4], [0], [6], [2]])
    index = rng.integers(1, 5, (B, 8, 8)).astype(np.int16) * visible[:, :1, None]
    meant = np.zeros((B, M, Q), bool)
    meant[0, 0, [0, 3]], meant[0, 1, 5], meant[1, 0, 1], meant[3, 0, 1] = True, True, True, True
    absent = np.zeros((B, M), bool)
    absent[0, 2] = absent[1, 2] = True
    labels = rng.integers(0, V, (B, T))
    labels[0, 2:], labels[2] = IGNORED, IGNORED
    segmented = np.array([True, True, True, False])
    given = dict(visible=visible, index=index, meant=meant, absent=absent, labels=labels, segmented=segmented)
    return losses.prepare(WEIGHTS, given, Q)


KEYS = jax.random.split(jax.random.key(0), B)


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # most of the time is compiling
def loss_and_gradient(outputs, batch, keys):
    def loss(outputs):
        total, terms, _ = losses.batch_loss(WEIGHTS, outputs, batch, keys)
        return total, {**terms, "loss": total}

    gradient, terms = jax.grad(loss, has_aux=True)(outputs)
    return terms, gradient


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_add_up(outputs, batch, parts):
    """Terms are the mean over equal parts, gradients those of it; as in training, a part takes every so many-th row."""
    terms, gradient = loss_and_gradient(outputs, batch, KEYS)
    cut = [loss_and_gradient(*jax.tree.map(lambda x, i=i: x[i::parts], (outputs, batch, KEYS))) for i in range(parts)]
    for name, value in terms.items():
        np.testing.assert_allclose(np.mean([part[name] for part, _ in cut]), value, rtol=1e-5, err_msg=name)
    for i, (_, part) in enumerate(cut):
        jax.tree.map(
            lambda x, y, i=i: np.testing.assert_allclose(y / parts, x[i::parts], rtol=1e-5, atol=1e-7), gradient, part
        )


def test_terms_by_hand(outputs, batch):
    """Of nouns those with a visible mask and absent ones, of text what is to be learned, of all pictures together."""
    terms, gradient = loss_and_gradient(outputs, batch, KEYS)
    tokens = -np.take_along_axis(
        jax.nn.log_softmax(outputs["logits"]), np.maximum(batch["labels"], 0)[..., None], axis=2
    )[..., 0]
    np.testing.assert_allclose(terms["answer"], 0.5 * tokens[batch["labels"] != IGNORED].mean(), rtol=1e-5)
    told = np.array([[True, False, True], [False, False, True], [False] * 3, [True, False, False]])
    np.testing.assert_array_equal(losses.told_nouns(batch), told)
    assert (np.abs(gradient["association"]).max(2) > 0).tolist() == told.tolist()
    none = optax.sigmoid_binary_cross_entropy(outputs["association"], jnp.zeros((B, M, Q))).mean(2)
    # What a noun means takes its logit away: softplus(x) - x.
    taken = (outputs["association"] * (gradient["association"] < 0)).sum(2) / Q
    np.testing.assert_allclose(terms["association"], 3 * (none - taken)[told].mean(), rtol=1e-5)
    assert (gradient["association"] < 0).sum(2).tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    for layer in (gradient["entities"].last, *gradient["entities"].earlier):
        masks = (np.abs(layer.mask_logits).max((2, 3)) > 0).sum(1)
        assert masks.tolist() == [4, 0, 6, 0] and not layer.class_logits[3].any() and layer.class_logits[1].all()
    parts = sum(terms[name] for name in ("classes", "mask", "dice"))
    np.testing.assert_allclose(terms["loss"], 2 * parts + terms["association"] + terms["answer"], rtol=1e-5)


def test_a_batch_in_which_there_is_nothing_to_learn(outputs, batch):
    nothing = {name: np.zeros_like(batch[name]) for name in ("visible", "index", "meant", "absent", "segmented")}
    nothing = losses.prepare(WEIGHTS, {**nothing, "labels": np.full((B, T), IGNORED)}, Q)
    terms, gradient = loss_and_gradient(outputs, nothing, KEYS)
    assert not any(map(np.any, jax.tree.leaves((terms, gradient))))
