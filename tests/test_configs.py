"""Every config resolves, names runs that exist, and makes examples that its task can take."""

import dataclasses
import os

import jax
import numpy as np
import pytest

from grounding_jax.data.datasets import KNOWN_DATASETS
from grounding_jax.training.state import partition, path_matcher
from gsva_jax.experiment import CONFIG_FOLDERS, changed, debugged, find_config, load_config, run, task_of
from gsva_jax.mixture import Family
from gsva_jax.predict import RESULT, find_checkpoint
from gsva_jax.train import Recipe

CONFIGS = sorted(path.stem for path in CONFIG_FOLDERS[0].glob("*.py"))


def test_there_are_configs():
    assert {"gsva_tiny", "gsva_tiny_eyes", "gsva_tiny_masks", "gsva_tiny_words"} <= set(CONFIGS)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_resolves(name):
    experiment = load_config(name)
    assert experiment.name == name
    assert set(experiment.starts_from) <= set(CONFIGS)
    assert experiment.options.batch_size % 2 == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_one_step_has_a_finite_loss_and_gradient(name):
    """Two examples through the task as configured, by shape: nothing is compiled. A recipe takes what --debug does."""
    task = task_of(debugged(load_config(name)), [find_checkpoint("tiny")])
    examples = task.examples(seed=0)
    batch = {key: np.stack([examples[i][key] for i in range(2)]) for key in examples[0]}
    params = jax.eval_shape(task.init, jax.random.key(0))
    if getattr(task, "imitation", 0):
        masks = load_config("gsva_tiny_masks").task
        params = {**params, "helpers": jax.eval_shape(masks.init, jax.random.key(0))["helpers"]}
    assert {path for path in task.kept} <= set(params) | {"helpers"}
    batch["example"] = np.arange(2, dtype=np.int32)
    update = jax.random.key(0)
    loss, scalars = jax.eval_shape(lambda *given: task.loss(given[0], task.prepare(given[1]), update), params, batch)
    assert loss.shape == () and all(value.shape == () for value in scalars.values())
    trained, frozen = partition(params, path_matcher(task.trainable))
    assert jax.tree.leaves(trained) and all(name in params for name in (*trained, *frozen))


RECIPES = [name for name in CONFIGS if isinstance(load_config(name).task, Recipe)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_known_datasets_and_its_command(name):
    recipe = load_config(name).task
    assert {dataset for family in recipe.families for dataset in family.datasets} <= set(KNOWN_DATASETS)
    text = find_config(name).read_text()
    assert f"gsva train {name} --init " in text and "table A3" in text


def test_the_papers_recipe():
    """Spec gsva e: effective batch 160 in micro-batches of 2 on 8 devices, 5,000 updates; a third of the rate later."""
    pretraining, finetuning = load_config("gsva_7b"), load_config("gsva_7b_grefcoco")
    options = pretraining.options
    assert (options.batch_size, options.accumulate, options.steps) == (160, 10, 5000)
    assert (options.learning_rate, options.b1, options.b2, options.weight_decay) == (3e-4, 0.9, 0.95, 0)
    assert finetuning.options.learning_rate == 1e-4 and finetuning.task.epochs == 10
    assert pretraining.task.max_targets == 5 and [family.rate for family in pretraining.task.families] == [9, 6, 3, 1]


def test_options_and_recipe_are_changed_by_name(capsys):
    experiment = changed(load_config("gsva_7b"), ["--max-targets", "3", "--mesh.tensor", "2", "--data", "there"])
    assert (experiment.task.max_targets, experiment.options.mesh.tensor, experiment.task.data) == (3, 2, "there")
    with pytest.raises(SystemExit):
        changed(load_config("gsva_7b"), ["--max-target", "3"])
    assert "--max-targets" in capsys.readouterr().err


def test_epochs_set_the_number_of_updates(gsva_golden):
    data = ["--data", str(gsva_golden / "data"), "--batch-size", "4"]
    finetuning = load_config("gsva_7b_refzom")
    recipe = dataclasses.replace(finetuning.task, families=(Family(1, ("refcoco|unc|val",)),), epochs=7)
    assert changed(dataclasses.replace(finetuning, task=recipe), data).options.steps == -(-7 * 2 // 4)
    with pytest.raises(ValueError, match="epochs are of one dataset"):
        changed(load_config("gsva_7b"), [*data, "--epochs", "2"])


def test_examples_are_a_function_of_seed_and_number():
    examples = load_config("gsva_tiny_words").task.examples(seed=3)
    again = load_config("gsva_tiny_words").task.examples(seed=3)
    for key, value in examples[5].items():
        np.testing.assert_array_equal(value, again[5][key])
    assert (examples[5]["sam_images"] != examples[6]["sam_images"]).any()


def test_a_run_that_needs_another_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="train gsva_tiny_eyes first"):
        run("gsva_tiny_words", tmp_path)


def test_an_unknown_config_lists_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="gsva_tiny_masks"):
        find_config("gsva_tinny")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="get_config"):
        load_config(tmp_path / "empty.py")


def test_a_run_leaves_a_model_folder_and_is_not_done_twice(tmp_path, monkeypatch, capsys):
    """The whole way of `gsva train` on the smallest task there is, with options changed."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "small.py"
    config.write_text(
        "import dataclasses\n"
        "from gsva_jax.experiment import Experiment, load_config\n"
        "from gsva_jax.config import GsvaConfig\n"
        "def get_config():\n"
        "    base = load_config('gsva_tiny_eyes')\n"
        "    clip = dataclasses.replace(base.task.model.clip, image_size=16, width=8, hidden=8, layers=1, heads=1)\n"
        "    task = dataclasses.replace(base.task, model=dataclasses.replace(base.task.model, clip=clip), size=48)\n"
        "    return Experiment('small', task, dataclasses.replace(base.options, warmup_steps=1))\n"
    )
    options = ["--steps", "3", "--batch-size", "2", "--log-every", "1"]
    result = run(config, "runs", overrides=options)
    assert os.path.abspath(result) == str(tmp_path / "runs" / "small" / RESULT)
    assert len((tmp_path / "runs" / "small" / "log.jsonl").read_text().splitlines()) == 3
    assert run(config, "runs", overrides=options) == result
    assert "already trained" in capsys.readouterr().out
    assert dataclasses.is_dataclass(load_config(config))
    with pytest.raises(ValueError, match="does not fit this config: clip/class_embed"):
        run("gsva_tiny_eyes", "runs", init=result)
