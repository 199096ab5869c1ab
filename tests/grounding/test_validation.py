"""Validation while training: its scores choose the checkpoint that is kept, and they are those of the masks."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from PIL import Image

from grounding_jax.drawing.overlay import draw_overlay, side_by_side
from grounding_jax.training.checkpoints import best_step
from grounding_jax.training.experiment import changed, debugged
from grounding_jax.training.experiment import run as run_config
from grounding_jax.training.loop import train
from grounding_jax.training.runs import model_at
from grounding_jax.training.scores import Scores
from gsva_jax import engine
from gsva_jax.loading import find_checkpoint, load
from gsva_jax.predict import Target
from gsva_jax.training.experiment import GSVA, RECIPES, load_config
from tests.grounding.test_training import OPTIONS, Regression


@dataclasses.dataclass(frozen=True)
class Judged(Regression):
    """Is best where its slope is 0.6 long: in the middle of the training."""

    best_metric: str = "likeness"

    def validation_dataset(self):
        return self.examples(seed=7)

    def measure(self, params, batch):
        far = jnp.abs(jnp.linalg.norm(params["line"]["slope"]) - 0.6)
        return {"likeness": (-far * len(batch["x"]), len(batch["x"]))}, {"x": batch["x"]}

    def draw(self, example, shown):
        np.testing.assert_array_equal(example["x"], shown["x"])
        return np.full((2, 3, 3), 200, np.uint8)


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


class Unmeasurable(Judged):
    """Its validation fails."""

    def measure(self, params, batch):
        raise RuntimeError("the validation died")


def test_a_validation_that_fails_loses_nothing(tmp_path):
    """The checkpoint before it is whole; the next call validates it first and goes on to the same bits and scores."""
    with pytest.raises(RuntimeError, match="the validation died"):
        train(Unmeasurable(), OPTIONS, tmp_path / "twice")
    assert [path.name for path in (tmp_path / "twice" / "checkpoints").iterdir()] == ["3"]
    resumed, whole = train(Judged(), OPTIONS, tmp_path / "twice"), train(Judged(), OPTIONS, tmp_path / "once")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    scores = [(tmp_path / name / "validation.jsonl").read_text() for name in ("twice", "once")]
    assert scores[0] == scores[1] and len(scores[0].splitlines()) == 2


@dataclasses.dataclass(frozen=True)
class Diverged(Judged):
    """Has no score where its slope has become too long."""

    longest: float = 0.5

    def measure(self, params, batch):
        (total, count), shown = super().measure(params, batch)[0]["likeness"], {"x": batch["x"]}
        far = jnp.linalg.norm(params["line"]["slope"]) > self.longest
        return {"likeness": (jnp.where(far, jnp.nan, total), count)}, shown


def test_a_score_that_is_no_number_is_a_warning(tmp_path, caplog):
    """It is never the best, and its step counts as validated."""
    train(Diverged(), dataclasses.replace(OPTIONS, save_every=1, keep_last=6), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    numbers = [line["step"] for line in lines if "likeness" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert numbers and 6 not in numbers, "otherwise this test shows nothing"
    assert "step 6: its likeness is nan, and left out of" in caplog.text
    scores = Scores(epath.Path(tmp_path))
    assert scores.of(6) == {} and scores.of(7) is None
    assert best_step(epath.Path(tmp_path), "likeness") in numbers
    caplog.clear()
    train(Diverged(), dataclasses.replace(OPTIONS, save_every=1, keep_last=6), tmp_path)
    assert "step 6" not in caplog.text, "validated again"


def test_scores_that_are_none_are_named(tmp_path):
    (tmp_path / "validation.jsonl").write_text('{"step": 3, "likeness": 0.5}\n{"step": 6, "likeness": "high"}\n')
    with pytest.raises(ValueError, match=r"validation.jsonl, line 2 at .* got `str`"):
        Scores(tmp_path)


class Undrawable(Judged):
    """Has a picture for every second example only."""

    def draw(self, example, shown):
        if example["i"] % 2:
            raise ZeroDivisionError("no room")
        return super().draw(example, shown)


def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path, caplog):
    train(Undrawable(), dataclasses.replace(OPTIONS, validation_examples=4, pictures=4), tmp_path)
    assert len(list((tmp_path / "pictures").iterdir())) == 2 * 2
    assert "example 1 can't be drawn: ZeroDivisionError: no room" in caplog.text


def test_truth_and_prediction_may_have_legends_of_different_heights():
    """Four expressions of one long name: those of one side wrap beside their verdicts, those of the other do not."""
    masks = np.zeros((4, 48, 64), bool)
    masks[:, 5:20, 5:30] = True
    columns = [
        [Target("the man in the blue shirt", rejected, mask & ~rejected, score) for mask in masks]
        for rejected, score in ((False, 1.0), (True, 0.2))
    ]
    cards = [draw_overlay(np.full((48, 64, 3), 90, np.uint8), targets, ["title"]) for targets in columns]
    assert len({len(card) for card in cards}) == 2, "otherwise this test shows nothing"
    joined = side_by_side(cards)
    left = 0
    for card in cards:
        np.testing.assert_array_equal(joined[: len(card), left : left + card.shape[1]], card)
        left += card.shape[1]
    assert joined.shape == (max(map(len, cards)), left, 3)


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
    run_config(GSVA, "gsva_7b_grefcoco", runs, overrides=overrides, debug=True)
    return runs / "gsva_7b_grefcoco_debug"


def test_the_scores_of_gsva_are_those_of_its_masks(short):
    """Recomputed at the size of the pictures from what the model says about the same examples."""
    experiment = debugged(load_config("gsva_7b_grefcoco"))
    task = experiment.recipe.task(find_checkpoint("tiny"))
    last = json.loads((short / "validation.jsonl").read_text().splitlines()[-1])
    examples = task.validation_dataset()
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
    assert find_checkpoint(f"{short}@best") == model_at(short, best, RECIPES)


def test_a_validation_that_is_not_there_says_how_to_do_without():
    experiment = debugged(load_config("gsva_7b_grefcoco"))
    task = changed(experiment, ["--validation", "ReasonSeg|val"]).recipe.task(find_checkpoint("tiny"))
    with pytest.raises(FileNotFoundError, match=r"needed for validation; --validation '' does without"):
        task.validation_dataset()
    without = changed(experiment, ["--validation", ""]).recipe.task(find_checkpoint("tiny"))
    assert without.validation_dataset() is None
