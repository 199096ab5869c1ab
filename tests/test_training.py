"""The training loop: resuming gives the numbers of never stopping, and the frozen part stays as it was."""

import dataclasses
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grounding_jax.sharding.rules import WHOLE
from grounding_jax.training.loop import train
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.state import combine, partition, path_matcher

OPTIONS = TrainOptions(
    steps=6, batch_size=4, learning_rate=0.5, warmup_steps=2, slow=("slow",), slow_rate=0.5, log_every=1, save_every=3
)


@dataclasses.dataclass(frozen=True)
class Regression:
    """Fits a line to points that are a function of (seed, i)."""

    trainable: tuple[str, ...] = ("line", "slow")
    kept: tuple[str, ...] = ("line", "slow", "frozen")
    broken_from: int = 10**9

    def init(self, key):
        return {"line": {"slope": jnp.zeros(3)}, "slow": {"offset": jnp.zeros(())}, "frozen": {"one": jnp.ones(())}}

    def sharding(self):
        return ((".*", WHOLE),)

    def prepare(self, batch):
        return batch

    def examples(self, seed):
        def example(i, rng):
            if i >= self.broken_from:
                raise RuntimeError("the power went off")
            x = rng.normal(size=3).astype(np.float32)
            return {"x": x, "y": x @ np.array([1, -2, 3], np.float32) + 1, "i": i}

        return grain.MapDataset.range(10**6).seed(seed).random_map(example)

    def loss(self, params, batch, key):
        guess = batch["x"] @ params["line"]["slope"] + params["slow"]["offset"] * params["frozen"]["one"]
        noise = jax.random.normal(key, guess.shape)
        return jnp.square(guess - batch["y"] + 0.1 * noise).mean(), {"first": batch["i"][0]}


def log_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    return train(Regression(), OPTIONS, run), log_of(run)


def test_a_resumed_run_repeats_nothing_and_ends_bit_for_bit_the_same(uninterrupted, tmp_path):
    expected, expected_log = uninterrupted
    with pytest.raises(RuntimeError, match="power"):
        train(Regression(broken_from=17), OPTIONS, tmp_path)  # dies while example 17 is made, in step 5
    resumed = train(Regression(), OPTIONS, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
    last = {entry["step"]: entry for entry in log_of(tmp_path)}
    assert [entry["first"] for entry in expected_log] == [0, 4, 8, 12, 16, 20]
    for entry in expected_log:
        for name in ("loss", "first", "grad_norm", "update_norm"):
            assert last[entry["step"]][name] == entry[name]


def test_the_loss_falls_and_the_frozen_part_stays(uninterrupted):
    params, log = uninterrupted
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert params["frozen"]["one"] == 1


def test_a_slow_parameter_moves_at_its_rate():
    optimizer = make_optimizer(dataclasses.replace(OPTIONS, warmup_steps=0, clip_norm=1e9))
    params = {"line": jnp.zeros(()), "slow": jnp.zeros(())}
    updates, _ = optimizer.update({"line": jnp.ones(()), "slow": jnp.ones(())}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["slow"], 0.5 * updates["line"], rtol=1e-6)
    assert optax.tree.norm(updates) > 0


def test_partition_and_combine_are_inverse():
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    inside, outside = partition(tree, path_matcher(("a/b", "d")))
    assert inside == {"a": {"b": 1}, "d": 3} and outside == {"a": {"c": 2}}
    assert combine(inside, outside) == tree
    assert combine(tree, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
