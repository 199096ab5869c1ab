"""A model folder that was made of a checkpoint is taken up only as long as the run has this checkpoint, or none."""

import shutil

import pytest
from etils import epath

from grounding_jax.training import converted


@pytest.fixture
def run(tmp_path) -> epath.Path:
    run = epath.Path(tmp_path)
    (run / "run.json").write_text('{"seed": 1}')
    (run / "checkpoints/5/state/d").mkdir(parents=True)
    (run / "checkpoints/5/state/manifest.ocdbt").write_bytes(b"manifest")
    (run / "checkpoints/5/state/d/0a1b").write_bytes(bytes(2 << 20))
    converted.place(run, 5).mkdir()
    (converted.place(run, 5) / "config.json").write_text("{}")
    assert not converted.is_current(run, 5), "nobody knows of what it was made"
    converted.write_note(run, 5)
    assert converted.is_current(run, 5)
    return run


def test_a_checkpoint_that_the_run_has_deleted_is_still_the_one(run):
    shutil.rmtree(run / "checkpoints/5")
    assert converted.is_current(run, 5)


def test_another_checkpoint_of_the_same_step(run):
    (run / "checkpoints/5/state/d/0a1b").rename(run / "checkpoints/5/state/d/2c3d")
    assert not converted.is_current(run, 5)


def test_another_run_in_the_same_folder(run):
    shutil.rmtree(run / "checkpoints")
    (run / "run.json").write_text('{"seed": 2}')
    assert not converted.is_current(run, 5)


def test_an_interrupted_conversion(run):
    (converted.place(run, 5) / "config.json").unlink()
    assert not converted.is_current(run, 5)


@pytest.mark.parametrize("damage", [b"", b"\0" * 129, b"\xff\xfe", b"one two three", b"one"])
def test_a_damaged_note(run, damage):
    (run / "model-5.made_of").write_bytes(damage)
    assert not converted.is_current(run, 5)
    converted.write_note(run, 5)
    assert converted.is_current(run, 5)
