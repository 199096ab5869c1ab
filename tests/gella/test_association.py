"""The association against the golden numbers, and who takes part in its loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from gella_jax import association
from gella_jax.association import AssociationConfig, association_loss, association_targets
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.rules import layer
from grounding_jax.weights.table import Table

pytestmark = pytest.mark.quick

MEANT = [[0], [1, 2], [], [3], [0, 3]]  # the masks of each noun of the golden


@pytest.fixture(scope="module")
def reference(golden) -> tuple[dict, dict]:
    path = golden / "gella/gella_ref"
    return load_file(path / "inputs.safetensors"), load_file(path / "outputs.safetensors")


def golden_params(golden, kind: str) -> dict:
    names = ["/"] if kind == "fc" else ["/fc1/", "/fc2/"]
    rules = [
        rule
        for theirs, ours in (("text", "text"), ("entity", "query"))
        for i, name in enumerate(names)
        for rule in layer(f"assoc.{kind}.{theirs}.{i}", (ours + name).removesuffix("/"))
    ]
    path = golden / "gella/gella_ref"
    found = {key: leaf for key, leaf in open_weights(path).items() if key.startswith(f"assoc.{kind}.")}
    return folder.to_params(Table(tuple(rules)).to_ours(found, str(path)), np.dtype(np.float32))


def golden_targets(inputs: dict) -> tuple[jax.Array, jax.Array]:
    queries, entities = inputs["assoc.assignment"]
    meant = np.zeros((1, len(MEANT), len(entities)), bool)
    for noun, masks in enumerate(MEANT):
        meant[0, noun, masks] = True
    query_of_entity = np.zeros((1, len(entities)), np.int32)
    query_of_entity[0, entities] = queries
    return association_targets(meant, np.ones_like(query_of_entity, bool), query_of_entity, len(inputs["assoc.e_vc"]))


@pytest.mark.parametrize("kind", association.KINDS)
def test_golden(golden, reference, kind):
    inputs, outputs = reference
    config = AssociationConfig(text_width=24, query_width=16, width=16, kind=kind)
    nouns, queries = inputs["assoc.e_vl"][None], inputs["assoc.e_vc"][None]
    logits = association.associate(config, golden_params(golden, kind), nouns, queries)
    np.testing.assert_allclose(logits[0], outputs[f"assoc.{kind}.logits"], atol=1e-4, rtol=1e-4)
    targets, grounded = golden_targets(inputs)
    np.testing.assert_array_equal(targets[0], outputs["assoc.target"])
    assert grounded[0].tolist() == [bool(masks) for masks in MEANT]
    for rows, name in ((grounded, "grounded_rows"), (np.ones_like(grounded), "all_rows")):
        total, count = association_loss(logits, targets, rows)
        np.testing.assert_allclose(total[0] / count[0], outputs[f"assoc.{kind}.loss_{name}"], rtol=1e-4)


def test_hidden_and_unmatched_masks():
    meant = np.array([[[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]], bool)
    visible = np.array([[True, False, True, True]])  # the second is hidden
    query_of_entity = np.array([[4, 1, -1, 0]])  # there was no query left for the third
    targets, grounded = association_targets(meant, visible, query_of_entity, 5)
    assert np.argwhere(targets[0]).tolist() == [[0, 4]]
    assert grounded[0].tolist() == [True, False, True, False]


def test_loss_is_pooled_over_nouns_and_padding_has_no_say():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(2, 4, 6)).astype(np.float32), rng.random((2, 4, 6)) < 0.3
    rows = np.array([[1, 1, 1, 0], [0, 1, 0, 0]], bool)

    def loss(logits):
        sums, counts = association_loss(logits, targets, rows)
        assert sums.shape == counts.shape == (2,)
        return sums.sum() / counts.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits))
    p = 1 / (1 + np.exp(-logits[rows]))
    np.testing.assert_allclose(value, -np.log(np.where(targets[rows], p, 1 - p)).mean(), rtol=1e-5)
    assert not np.asarray(gradient)[~rows].any() and np.asarray(gradient)[rows].all()
    sums, counts = association_loss(logits, targets, np.zeros_like(rows))
    assert not sums.any() and not counts.any()


@pytest.mark.parametrize("kind, layers", [("fc", 1), ("fc_relu_fc", 2)])
def test_published_sizes(kind, layers):
    config = AssociationConfig(text_width=4096, kind=kind)
    params = jax.eval_shape(lambda: association.init(config, jax.random.key(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == 4096 * 256 + 256 * 256 + 2 * 256 + (layers - 1) * 2 * (256 * 256 + 256)
    shapes = [jax.ShapeDtypeStruct((2, n, width), jnp.bfloat16) for n, width in ((21, 4096), (100, 256))]
    logits = jax.eval_shape(lambda *x: association.associate(config, *x), params, *shapes)
    assert (logits.shape, logits.dtype) == ((2, 21, 100), jnp.float32)


def test_a_kind_it_does_not_know():
    with pytest.raises(ValueError, match="kind is 'mlp', should be fc or fc_relu_fc"):
        AssociationConfig(text_width=8, kind="mlp")
