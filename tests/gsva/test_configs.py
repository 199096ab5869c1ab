"""GSVA's recipes, and what a run of a config does; what all configs have in common is in tests/grounding."""

import dataclasses
import os
import re
import shlex
import subprocess

import numpy as np
import pytest

from grounding_jax.training.experiment import changed, counted, debugged, find_config, run
from grounding_jax.training.run_folder import RESULT
from gsva_jax.config import ASSETS
from gsva_jax.data.mixture import REASONING, SEMANTIC, Family
from gsva_jax.loading import find_checkpoint
from gsva_jax.training.experiment import GSVA, load_config
from tests.small_training import write_config


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
    expected = 18115 * (320 / 600) ** 2  # photo_scene.json: the watermelon's pixels, at the size of the canvas
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
