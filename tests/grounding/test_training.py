"""The training loop: resuming gives the numbers of never stopping, and the frozen part stays as it was."""

import dataclasses
import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.training.batches import BAD
from grounding_jax.training.finite import FiniteWatch
from grounding_jax.training.loop import open_run, train
from grounding_jax.training.optimizer import make_optimizer, make_schedule
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.state import combine, partition, path_matcher
from grounding_jax.training.task import Task

OPTIONS = TrainOptions(
    steps=6, batch_size=4, learning_rate=0.5, warmup_steps=2, slow=("slow",), slow_rate=0.5, log_every=1, save_every=3
)


@dataclasses.dataclass(frozen=True)
class Regression(Task):
    """Fits a line to points that are a function of (seed, i)."""

    trainable: tuple[str, ...] = ("line", "slow")
    export_keys: tuple[str, ...] = ("line", "slow", "frozen")
    broken_from: int = 10**9
    infinite: tuple[int, ...] = ()
    damaged: int = 0

    def init(self, key):
        return {"line": {"slope": jnp.zeros(3)}, "slow": {"offset": jnp.zeros(())}, "frozen": {"one": jnp.ones(())}}

    def sharding(self):
        return ((".*", REPLICATED),)

    def examples(self, seed):
        def example(i, rng):
            if i >= self.broken_from:
                raise RuntimeError("the power went off")
            x = rng.normal(size=3).astype(np.float32)
            y = np.inf if i in self.infinite else x @ np.array([1, -2, 3], np.float32) + 1
            return {"x": x, "y": np.float32(y), "i": i, BAD: np.int32(self.damaged)}

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


def test_a_damaged_checkpoint_falls_back_to_the_one_before(uninterrupted, tmp_path, capsys):
    """And says so; it is put aside and the run ends with the same numbers."""
    expected, _ = uninterrupted
    train(Regression(), OPTIONS, tmp_path)
    for file in (tmp_path / "checkpoints" / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    resumed = train(Regression(), OPTIONS, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, resumed, expected)
    assert "checkpoint 6" in capsys.readouterr().err and (tmp_path / "broken_checkpoints" / "6").exists()
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 3, 4, 5, 6, 4, 5, 6]


def test_another_run_is_not_continued(tmp_path):
    train(Regression(), dataclasses.replace(OPTIONS, steps=3), tmp_path)
    with pytest.raises(ValueError, match="holds a run with learning_rate = 0.5, this one has 0.1"):
        train(Regression(), dataclasses.replace(OPTIONS, steps=3, learning_rate=0.1), tmp_path)


def test_an_update_that_is_not_finite_is_skipped_and_counted(tmp_path):
    """Examples 4-7 make up update 2: the parameters stay, and the ids are on disk."""
    train(Regression(infinite=(5,)), OPTIONS, tmp_path)
    log = {line["step"]: line for line in log_of(tmp_path)}
    assert [log[step]["skipped"] for step in range(1, 7)] == [0, 1, 1, 1, 1, 1]
    assert [log[step]["bad_in_a_row"] for step in range(1, 7)] == [0, 1, 0, 0, 0, 0]
    assert all(np.isfinite(log[step]["loss"]) for step in (1, 3, 4, 5, 6))
    bad = json.loads((tmp_path / "bad_steps.jsonl").read_text())
    assert bad == {"step": 2, "process": 0, "examples": [4, 5, 6, 7]}


def test_each_process_writes_down_its_own_examples(tmp_path, monkeypatch):
    """On a disk that they share, lines that two append to one file get lost."""
    scalars, examples = {"bad_in_a_row": jnp.ones(())}, jnp.arange(3)
    for process in (0, 1, 12):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        watch = FiniteWatch(epath.Path(tmp_path), 2)
        watch.see(7, scalars, examples)
        watch.check()
    files = {path.name: json.loads(path.read_text())["process"] for path in tmp_path.iterdir()}
    assert files == {"bad_steps.jsonl": 0, "bad_steps.1.jsonl": 1, "bad_steps.12.jsonl": 12}


def test_too_many_bad_updates_in_a_row_stop_the_run(tmp_path):
    with pytest.raises(ValueError, match="not finite in 2 updates in a row, up to step 4"):
        train(Regression(infinite=(9, 13)), dataclasses.replace(OPTIONS, most_bad_steps=2), tmp_path)


def test_more_damaged_records_than_allowed_stop_the_run(tmp_path):
    options = dataclasses.replace(OPTIONS, most_bad_records=0.004)
    with pytest.raises(ValueError, match="8 of 8 records were damaged .* more than a share of 0.004"):
        train(Regression(damaged=1), options, tmp_path)


@pytest.mark.parametrize(
    "field, value, limits",
    [
        ("steps", 0, "1 to 2147483647"),
        ("batch_size", -4, "1 to 2147483647"),
        ("accumulate", 0, "1 to 2147483647"),
        ("log_every", 0, "1 to 2147483647"),
        ("save_every", 0, "1 to 2147483647"),
        ("keep_last", 0, "1 to 2147483647"),
        ("seed", -1, "0 to 2147483647"),
        ("threads", -1, "0 to 2147483647"),
        ("learning_rate", float("nan"), "0 to 2147483647"),
        ("learning_rate", float("inf"), "0 to 2147483647"),
        ("slow_rate", -0.5, "0 to 1"),
        ("most_bad_records", 1.01, "0 to 1"),
        ("drops", 46, "0 to 1"),
        ("b2", 1.0, "0 to 0.999999999"),
        ("clip_norm", 0.0, "1e-09 to 2147483647"),
    ],
)
def test_options_that_train_nothing_are_named(field, value, limits):
    given = (0.5, value) if field == "drops" else value
    with pytest.raises(ValueError, match=f"^{field} is {value}, should be a number from {limits}$"):
        dataclasses.replace(OPTIONS, **{field: given})


def test_a_batch_that_does_not_divide_says_what_would(tmp_path):
    with pytest.raises(ValueError, match="a batch of 4 in 3 micro-batches .* a multiple of 3"):
        train(Regression(), dataclasses.replace(OPTIONS, accumulate=3), tmp_path)


def test_schedules(gsva_golden):
    """The release's, whose first update has the full rate and whose second has none (spec gsva e); ours is plain."""
    stored = json.loads((gsva_golden / "lr_schedule.json").read_text())
    options = TrainOptions(stored["total"], 160, stored["peak"], schedule="deepspeed", warmup_steps=stored["warmup"])
    deepspeed, linear = make_schedule(options), make_schedule(dataclasses.replace(options, schedule="linear"))
    for update, rate in stored["lr_used_at_update"].items():
        assert float(deepspeed(int(update))) == pytest.approx(rate, rel=1e-5, abs=1e-11)
        if update != "0":
            assert float(linear(int(update) - 1)) == pytest.approx(rate, rel=1e-5, abs=1e-11)


@pytest.mark.parametrize(
    "steps, drops, rates",
    [
        (10, (0.5, 0.8), [0, 0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (10, (0.8, 0.5), [0, 0.5, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01]),
        (4, (46 / 50, 48 / 50, 0.25, 0.26), [0, 0.005, 0.01, 0.01, 0.0001]),  # two are after the same update
        (3, (), [0, 0.5, 1]),
    ],
)
def test_a_rate_that_falls_in_steps(steps, drops, rates):
    rate = make_schedule(TrainOptions(steps, 1, 1.0, schedule="steps", drops=drops, warmup_steps=2))
    np.testing.assert_allclose([float(rate(update)) for update in range(len(rates))], rates, rtol=1e-6)


@pytest.mark.parametrize("schedule, last", [("cosine", 0.75), ("linear", 0.75), ("deepspeed", 0.5)])
def test_a_training_may_end_while_the_rate_still_rises(schedule, last):
    rate = make_schedule(TrainOptions(4, 1, 1.0, schedule=schedule, warmup_steps=4))
    assert [float(rate(update)) for update in (1, 3)] == pytest.approx([0.25 if schedule != "deepspeed" else 0, last])


def test_a_rate_that_falls_in_a_half_wave():
    rate = make_schedule(TrainOptions(10, 1, 2.0, schedule="cosine", final_rate=0.1, warmup_steps=2))
    expected = [0, 1, 2, 2 * (0.1 + 0.9 * (1 + np.cos(np.pi / 4)) / 2), 1.1, 0.2]
    np.testing.assert_allclose([float(rate(update)) for update in (0, 1, 2, 4, 6, 10)], expected, rtol=1e-6)


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


def test_what_does_not_decay():
    """Patterns match from the start of a path; decay is a share of the parameter, times the rate."""
    options = dataclasses.replace(OPTIONS, warmup_steps=0, weight_decay=0.1, no_decay=(".*bias", "slow"))
    params = {name: {leaf: jnp.full(2, 3.0) for leaf in ("kernel", "bias")} for name in ("line", "slow", "not_slow")}
    optimizer = make_optimizer(options)
    updates, _ = optimizer.update(jax.tree.map(jnp.zeros_like, params), optimizer.init(params), params)
    decayed = {name: -0.5 * 0.1 * 3 * (name != "slow") for name in params}
    for name, value in decayed.items():
        np.testing.assert_allclose(updates[name]["kernel"], value, rtol=1e-6)
        assert not updates[name]["bias"].any()


def test_a_pattern_that_is_none_is_named():
    with pytest.raises(ValueError, match=r"'clip\(' is no regular expression on parameter paths: missing \)"):
        make_optimizer(dataclasses.replace(OPTIONS, slow=("clip(",)))


def test_a_step_whose_checkpoint_is_damaged_is_named(tmp_path):
    train(Regression(), OPTIONS, tmp_path)
    for file in (tmp_path / "checkpoints" / "6").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:7])
    with pytest.raises(ValueError, match="the checkpoint of step 6 can't be read: "):
        open_run(Regression(), OPTIONS, tmp_path, step=6)


def test_partition_and_combine_are_inverse():
    tree = {"a": {"b": 1, "c": 2}, "d": 3}
    inside, outside = partition(tree, path_matcher(("a/b", "d")))
    assert inside == {"a": {"b": 1}, "d": 3} and outside == {"a": {"c": 2}}
    assert combine(inside, outside) == tree
    assert combine(tree, {"a": {"b": 9}}) == {"a": {"b": 9, "c": 2}, "d": 3}
