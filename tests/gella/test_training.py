"""What moves in a training of GELLA and what does not, by updates that are made."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from gella_jax import model
from gella_jax.model import EntityPredictions
from gella_jax.training.experiment import load_config
from grounding_jax.models.mask2former import Prediction
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.state import init_state, partition, path_matcher
from grounding_jax.training.step import make_update
from tests.small_gella import small_params, small_task
from tests.small_panoptic import write_narratives, write_panoptic_tree

# The paper's, but for a rate at which three updates are seen.
OPTIONS = dataclasses.replace(load_config("gella_7b").options, steps=3, learning_rate=1e-2, warmup_steps=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_panoptic_tree(root)
    write_narratives(root)
    return root


def without_masks(config, params, features, colormaps, dtype, drop_path_keys=None) -> EntityPredictions:
    """In the place of the mask branch, which takes long to compile."""
    B, Q, S = len(colormaps), config.mask2former.queries, config.side // 4
    width = config.mask2former.width
    own = jnp.broadcast_to(params["mask2former"]["transformer_decoder"]["query_feat"], (B, Q, width))
    return EntityPredictions(Prediction(own[..., :2], own[..., :1, None] + jnp.zeros((S, S)), own), ())


def moved(task) -> tuple[dict, dict]:
    """All parameters before and after three updates, on the host, by path."""
    random = jax.tree.map(lambda x: np.full(x.shape, 0.01, x.dtype), jax.eval_shape(task.init, jax.random.key(0)))
    given = traverse_util.flatten_dict(task.import_params(small_params()), sep="/")
    params = traverse_util.flatten_dict(random, sep="/") | jax.tree.map(np.asarray, given)
    trained, frozen = partition(traverse_util.unflatten_dict(params, sep="/"), path_matcher(task.trainable))
    examples, optimizer = task.examples(0), make_optimizer(OPTIONS)
    update = jax.jit(make_update(task, optimizer), compiler_options={"xla_backend_optimization_level": 0})
    state = init_state(optimizer, trained)
    for step in range(OPTIONS.steps):
        rows = [{**examples[2 * step + i], "example": np.int32(2 * step + i)} for i in range(2)]
        state, scalars = update(state, frozen, {name: np.stack([row[name] for row in rows]) for name in rows[0]})
        assert np.isfinite(scalars["loss"]) and not scalars["skipped"]
    return params, {**params, **traverse_util.flatten_dict(jax.device_get(state.params), sep="/")}


@pytest.mark.parametrize("llm", ["lora", "full"])
def test_what_moves(root, llm, monkeypatch):
    """Of the vocabulary nothing but the rows of [SEG], bit for bit, unless the language model is trained."""
    monkeypatch.setattr(model, "segment", without_masks)
    task = small_task(root, llm=llm)
    before, after = moved(task)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert {path.partition("/")[0] for path in before} - {path.partition("/")[0] for path in changed} == {"clip"}
    layers = {path.rpartition("/")[2] for path in changed if path.startswith("llama/layers/")}
    assert layers == {"lora": {"lora_a", "lora_b"}, "full": {"kernel", "scale"}}[llm]

    words = task.model.llama.vocab_size
    rows = {
        "llama/embed/embedding": (before["llama/embed/embedding"], after["llama/embed/embedding"]),
        "llama/head/kernel": (before["llama/head/kernel"].T, after["llama/head/kernel"].T),
    }
    for path, (old, new) in rows.items():
        those = np.flatnonzero((old != new).any(1))
        if llm != "full":
            assert those.tolist() == list(task.tokenizer.seg), path
        else:
            assert set(task.tokenizer.seg) < set(those.tolist()), path
    if llm == "full":
        assert those[:words].tolist() == list(range(words)), "every logit has a part in the loss"


def test_masks_alone_are_a_model_of_two_parts(root):
    """What is neither seen nor said is not there: in the tree, in the examples and in the result."""
    task = small_task(root, blend="none", llm="frozen")
    assert set(jax.eval_shape(task.init, jax.random.key(0))) == {"backbone", "mask2former"} == set(task.export_keys)
    assert set(task.examples(0)[0]) - {"bad_records"} == {"colormaps", "index", "visible", "segmented"}
