"""Every config resolves, names runs that exist, and makes examples that its task can take."""

import dataclasses
import os
import re
import shlex
import subprocess

import jax
import numpy as np
import pytest

from grounding_jax.data.sources.registry import KNOWN_DATASETS
from grounding_jax.training.experiment import changed, counted, debugged, find_config, run
from grounding_jax.training.run_folder import RESULT
from grounding_jax.training.state import partition, path_matcher
from gsva_jax.config import ASSETS
from gsva_jax.data.mixture import REASONING, SEMANTIC, Family
from gsva_jax.loading import find_checkpoint
from gsva_jax.training.experiment import GSVA, load_config
from gsva_jax.training.recipe import GsvaRecipe
from tests.small_training import write_config

CONFIGS = [path.stem for path in GSVA.config_files()]


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
    task = debugged(load_config(name)).recipe.task(find_checkpoint("tiny"))
    examples = task.examples(seed=0)
    batch = {key: np.stack([examples[i][key] for i in range(2)]) for key in examples[0]}
    params = jax.eval_shape(task.init, jax.random.key(0))
    if getattr(task, "imitation", 0):
        masks = load_config("gsva_tiny_masks").recipe
        params = {**params, "helpers": jax.eval_shape(masks.init, jax.random.key(0))["helpers"]}
    assert {path for path in task.export_keys} <= set(params) | {"helpers"}
    batch["example"] = np.arange(2, dtype=np.int32)
    update = jax.random.key(0)
    loss, scalars = jax.eval_shape(lambda *given: task.loss(given[0], task.prepare(given[1]), update), params, batch)
    assert loss.shape == () and all(value.shape == () for value in scalars.values())
    trained, frozen = partition(params, path_matcher(task.trainable))
    assert jax.tree.leaves(trained) and all(name in params for name in (*trained, *frozen))


RECIPES = [name for name in CONFIGS if isinstance(load_config(name).recipe, GsvaRecipe)]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_known_datasets_and_its_command(name):
    recipe = load_config(name).recipe
    own = {"jsonl|train.jsonl", "jsonl|val.jsonl"} if name == "gsva_own_data" else set()
    named = {dataset for family in recipe.families for dataset in family.datasets} | {recipe.validation} - {""}
    assert named <= set(KNOWN_DATASETS) | own
    text = find_config(GSVA, name).read_text()
    assert f"gsva train {name} --" in text and "table A3" in text
    assert "gsva import --format " in text or name == "gsva_tiny_packed"


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("gsva_7b", "gsva_tiny_packed")])
def test_a_recipe_differs_from_the_base_in_what_its_name_says(name):
    base, experiment = load_config("gsva_7b"), load_config(name)
    finetuned = {"families", "epochs", "canvas", "learning_rate"}
    wanted = {
        "gsva_13b": {"mesh"},
        "gsva_13b_llama2": {"mesh"},
        "gsva_7b_grefcoco": finetuned,
        "gsva_7b_refzom": finetuned | {"validation"},
        "gsva_7b_res": finetuned - {"epochs"} | {"validation"},
        "gsva_own_data": finetuned - {"canvas"} | {"validation", "batch_size", "accumulate", "warmup_steps"},
        "lisa_7b": {"families", "validation", "max_targets", "tokens"},
        "gsva_7b_eight_tokens": {"tokens"},
        "gsva_7b_targets": set(),
        "gsva_7b_sam_l": set(),
        "gsva_7b_sam_b": set(),
    }
    pairs = ((base.recipe, experiment.recipe), (base.options, experiment.options))
    fields = [(old, new, field.name) for old, new in pairs for field in dataclasses.fields(old)]
    assert {field for old, new, field in fields if getattr(old, field) != getattr(new, field)} == wanted[name]


def test_the_papers_recipe():
    """Spec gsva e: effective batch 160 in micro-batches of 2 on 8 devices, 5,000 updates; a third of the rate later."""
    pretraining, finetuning = load_config("gsva_7b"), load_config("gsva_7b_grefcoco")
    options = pretraining.options
    assert (options.batch_size, options.accumulate, options.steps) == (160, 10, 5000)
    assert (options.learning_rate, options.b1, options.b2, options.weight_decay) == (3e-4, 0.9, 0.95, 0)
    assert finetuning.options.learning_rate == 1e-4 and finetuning.recipe.epochs == 10
    assert pretraining.recipe.max_targets == 5
    assert [family.rate for family in pretraining.recipe.families] == [9, 6, 3, 1]


def test_lisas_recipe():
    """Spec gsva k: 9 : 3 : 3 : 1 and three targets, as its program has them; gRefCOCO and [REJ] came with GSVA."""
    recipe = load_config("lisa_7b").recipe
    assert [family.rate for family in recipe.families] == [9, 3, 3, 1]
    assert [family.datasets for family in recipe.families if family.rate != 3] == [SEMANTIC, REASONING]
    assert not any("grefcoco" in dataset for family in recipe.families for dataset in family.datasets)
    assert (recipe.max_targets, recipe.tokens) == (3, ("[SEG]",))


def debug_task(name, *overrides):
    return changed(debugged(load_config(name)), overrides).recipe.task(find_checkpoint("tiny"))


def test_lisa_has_one_target_a_conversation():
    task = debug_task("lisa_7b")
    assert task.tokenizer.rej is None and len(task.tokenizer.seg) == 1
    examples, several = task.examples(seed=0), 0
    for i in range(6):
        example = examples[i]
        targets, branches = example["target_valid"].sum(), example["branch"].max()
        at_targets = example["branch"][np.isin(example["ids"], task.tokenizer.seg)]
        assert at_targets.tolist() == list(range(1, branches + 1)) and targets == branches <= 3
        assert not example["target_rejected"].any()
        several += branches > 1
    assert several


def test_eight_tokens_take_turns():
    task = debug_task("gsva_7b_eight_tokens")
    words = [task.tokenizer.decode([i]) for i in task.tokenizer.seg]
    assert words == [f"[SEG00{j}]" for j in range(8)]
    examples, kinds = task.examples(seed=0), set()
    for i in range(6):
        example = examples[i]
        answered = example["labels"][example["seg_positions"][example["target_valid"]]]
        rejected = example["target_rejected"][example["target_valid"]]
        own = np.where(rejected, task.tokenizer.rej, task.tokenizer.seg[: len(answered)])
        np.testing.assert_array_equal(answered, own)
        kinds |= set(answered.tolist())
    assert {task.tokenizer.rej, *task.tokenizer.seg[:3]} <= kinds


def test_the_number_of_targets_is_changed_on_the_command_line():
    """As the config's docstring runs it; all shapes follow."""
    script = find_config(GSVA, "gsva_7b_targets").read_text()
    assert "for M in 1 2 3 4 5 6 7 8 9 10; do" in script and "--max-targets $M --runs RUNS/targets_$M" in script
    for M in (1, 10):
        example = debug_task("gsva_7b_targets", "--max-targets", str(M)).examples(seed=0)[0]
        assert len(example["seg_positions"]) == len(example["masks"]) == M >= example["target_valid"].sum() > 0


def test_own_data_as_documented(tmp_path, monkeypatch):
    """The files and the command of docs/training.md, up to the first example."""
    page = (GSVA.configs[0].parent.parent / "docs" / "training.md").read_text()
    files, command = re.search(r"```bash\n(.*?)(gsva train .*?)\n", page, re.DOTALL).groups()
    monkeypatch.chdir(tmp_path)
    subprocess.run(["bash", "-ec", files.replace("gsva_jax/assets", str(ASSETS))], check=True)
    _, _, name, _, init, *options = shlex.split(command)
    options = [word for word in options if word not in ("--runs", "RUNS")]
    experiment = counted(changed(load_config(name), options))
    assert experiment.options.steps == 16 * 1 // 4
    example = experiment.recipe.task(find_checkpoint(init)).examples(seed=0)[0]
    assert example["target_valid"].sum() == 2 and example["target_rejected"].sum() == 1
    drawn = np.unpackbits(example["masks"], axis=-1).sum((1, 2))
    expected = 8745 * (320 / 600) ** 2  # photo_scene.json: the turtle's pixels, at the size of the canvas
    assert sorted(drawn)[:-1] == [0] * 4 and max(drawn) == pytest.approx(expected, rel=0.1)


def test_options_and_recipe_are_changed_by_name(capsys):
    experiment = changed(load_config("gsva_7b"), ["--max-targets", "3", "--mesh.tensor", "2", "--data", "there"])
    assert (experiment.recipe.max_targets, experiment.options.mesh.tensor, experiment.recipe.data) == (3, 2, "there")
    with pytest.raises(SystemExit):
        changed(load_config("gsva_7b"), ["--max-target", "3"])
    assert "--max-targets" in capsys.readouterr().err


def test_epochs_set_the_number_of_updates(gsva_golden):
    data = ["--data", str(gsva_golden / "data"), "--batch-size", "4"]
    finetuning = load_config("gsva_7b_refzom")
    recipe = dataclasses.replace(finetuning.recipe, families=(Family(1, ("refcoco|unc|val",)),), epochs=7)
    assert counted(changed(dataclasses.replace(finetuning, recipe=recipe), data)).options.steps == -(-7 * 2 // 4)
    with pytest.raises(ValueError, match="epochs are of one dataset"):
        counted(changed(load_config("gsva_7b"), [*data, "--epochs", "2"]))


def test_examples_are_a_function_of_seed_and_number():
    examples = load_config("gsva_tiny_words").recipe.examples(seed=3)
    again = load_config("gsva_tiny_words").recipe.examples(seed=3)
    for key, value in examples[5].items():
        np.testing.assert_array_equal(value, again[5][key])
    assert (examples[5]["sam_images"] != examples[6]["sam_images"]).any()


def test_a_run_that_needs_another_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="train gsva_tiny_eyes first"):
        run(GSVA, "gsva_tiny_words", tmp_path)


def test_an_unknown_config_lists_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="gsva_tiny_masks"):
        find_config(GSVA, "gsva_tinny")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ValueError, match="get_config"):
        load_config(tmp_path / "empty.py")


def test_a_run_leaves_a_model_folder_and_is_not_done_twice(tmp_path, monkeypatch, capsys):
    """The whole way of `gsva train` on the smallest task there is, with options changed."""
    monkeypatch.chdir(tmp_path)
    config = write_config(tmp_path)
    options = ["--steps", "2"]
    result = run(GSVA, config, "runs", overrides=options)
    assert os.path.abspath(result) == str(tmp_path / "runs" / "small" / RESULT)
    assert len((tmp_path / "runs" / "small" / "log.jsonl").read_text().splitlines()) == 2
    assert run(GSVA, config, "runs", overrides=options) == result
    with pytest.raises(ValueError, match="a run with steps = 2, this one has 3"):
        run(GSVA, config, "runs")
    assert "already trained" in capsys.readouterr().out
    assert dataclasses.is_dataclass(load_config(config))
    with pytest.raises(ValueError, match="does not fit this config: clip/class_embed"):
        run(GSVA, "gsva_tiny_eyes", "runs", init=result)
