"""Validation while training: its scores choose the checkpoint that is kept, and they are those of the masks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from grounding_jax.training.loop import train
from gsva_jax import engine
from gsva_jax.experiment import changed, debugged, load_config, model_at, task_of
from gsva_jax.experiment import run as run_config
from gsva_jax.predict import find_checkpoint, load
from tests.test_training import OPTIONS, Regression


@dataclasses.dataclass(frozen=True)
class Judged(Regression):
    """Is best where its slope is 0.6 long: in the middle of the training."""

    judged_by: str = "likeness"

    def validation(self):
        return self.examples(seed=7)

    def measure(self, params, batch):
        far = jnp.abs(jnp.linalg.norm(params["line"]["slope"]) - 0.6)
        return {"likeness": (-far * len(batch["x"]), len(batch["x"]))}, {"x": batch["x"]}

    def draw(self, batch, shown):
        np.testing.assert_array_equal(batch["x"], shown["x"])
        return [np.full((2, 3, 3), 200, np.uint8) for _ in batch["x"]]


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path):
    options = dataclasses.replace(OPTIONS, save_every=1, keep_last=1, validation_examples=6, pictures=5, profile=1)
    train(Judged(), options, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    best = max(lines, key=lambda line: line["likeness"])["step"]
    assert 1 < best < 6, "otherwise this test shows nothing"
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {best, 6}
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures[:5] == [f"000001-{k}.jpg" for k in range(5)] and len(pictures) == 30
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_validation_changes_no_number_of_the_training(tmp_path):
    for name, task in (("plain", Regression()), ("judged", Judged())):
        train(task, OPTIONS, tmp_path / name)
    plain, judged = (
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("plain", "judged")
    )
    assert [line["loss"] for line in plain] == [line["loss"] for line in judged]


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Two updates of a recipe, with a checkpoint and a validation after each."""
    runs = tmp_path_factory.mktemp("runs")
    overrides = ["--steps", "2", "--save-every", "1", "--keep-last", "1", "--validation-examples", "4"]
    run_config("gsva_7b_grefcoco", runs, overrides=overrides, debug=True)
    return runs / "gsva_7b_grefcoco_debug"


def test_the_scores_of_gsva_are_those_of_its_masks(short):
    """Recomputed at the size of the pictures from what the model says about the same examples."""
    experiment = debugged(load_config("gsva_7b_grefcoco"))
    task = task_of(experiment, [find_checkpoint("tiny")])
    last = json.loads((short / "validation.jsonl").read_text().splitlines()[-1])
    examples = task.validation()
    batch = jax.tree.map(lambda *rows: np.stack(rows), *(examples[i] for i in range(4)))
    gsva = load(short / "model")
    _, shown = jax.jit(task.measure)(gsva.engine.params, batch)
    ious, refusals = [], []
    for b, j in np.argwhere(batch["target_valid"]):
        (H, W), low = batch["original"][b], np.asarray(shown["masks"][b, j])
        true = np.unpackbits(batch["masks"][b, j], axis=-1)[:H, :W].astype(bool)
        guess = engine.full_size(gsva.engine, low, (H, W)) > 0
        refused = shown["scores"][b, j] < 0.5
        if batch["target_rejected"][b, j]:
            ious.append(float(refused))
            refusals.append(bool(refused))
        else:
            ious.append((guess & true).sum() / (guess | true).sum())
    assert last["gIoU"] == pytest.approx(np.mean(ious), abs=2e-3)
    assert last["N_acc"] == pytest.approx(np.mean(refusals))


def test_pictures_show_truth_and_prediction(short):
    """Side by side, as tall as each other; where the truth says not there, nothing is drawn."""
    picture = Image.open(next(iter(sorted((short / "pictures").iterdir()))))
    assert picture.width == 2 * 960 and picture.height > 960


def test_the_best_step_of_a_run_is_a_checkpoint(short):
    lines = [json.loads(line) for line in (short / "validation.jsonl").read_text().splitlines()]
    best = max(reversed(lines), key=lambda line: line["gIoU"])["step"]
    assert find_checkpoint(f"{short}@best") == model_at(short, best)


def test_a_validation_that_is_not_there_says_how_to_do_without():
    experiment = debugged(load_config("gsva_7b_grefcoco"))
    task = task_of(changed(experiment, ["--validation", "ReasonSeg|val"]), [find_checkpoint("tiny")])
    with pytest.raises(FileNotFoundError, match=r"needed for validation; --validation '' does without"):
        task.validation()
    without = task_of(changed(experiment, ["--validation", ""]), [find_checkpoint("tiny")])
    assert without.validation() is None
