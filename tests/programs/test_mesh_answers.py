"""Answers and reports on a mesh of eight devices are those of one device."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gsva_jax import MeshShape, loading
from tests.command_line import failed
from tests.programs import processes
from tests.programs.mesh_answers import DATASET, PROTOCOLS, ROWS, SCENES
from tests.programs.test_sharding import EIGHT

MESH = "2,2,2"


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    """What the program of this test file leaves."""
    folder = tmp_path_factory.mktemp("answers")
    command = [sys.executable, "-m", "tests.programs.mesh_answers", str(folder)]
    done = processes.run(command, {"XLA_FLAGS": EIGHT})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_mask_logits_and_decisions_are_those_of_one_device(out):
    one, mesh = (np.load(out / f"{case}.npz") for case in ("one", MESH))
    assert len(one["low"]) == ROWS and len(mesh["low"]) == 8, "filled up to four times two rows"
    np.testing.assert_array_equal(mesh["rejected"][:ROWS], one["rejected"])
    assert one["rejected"].any()
    np.testing.assert_allclose(mesh["score"][:ROWS], one["score"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(mesh["low"][:ROWS], one["low"], rtol=0, atol=1e-4)


def test_reports_and_written_answers_are_those_of_one_device(out):
    one, mesh = (json.loads((out / f"{case}.json").read_text())["reports"] for case in ("one", MESH))
    assert mesh == one and one[0]["num_images"] == 12
    for protocol in PROTOCOLS:
        pair = [(out / f"{case}-{protocol}.jsonl").read_text().splitlines() for case in ("one", MESH)]
        for expected, line in zip(*(map(json.loads, lines) for lines in pair), strict=True):
            assert line.pop("score") == pytest.approx(expected.pop("score"), abs=1e-4)
            assert line == expected


def test_parameters_rows_and_cache_are_spread(out):
    specs = json.loads((out / f"{MESH}.json").read_text())["specs"]
    assert specs["q"] == str(P(None, "fsdp", "tensor")) and specs["down"] == str(P(None, "tensor", "fsdp"))
    rows = str(P(("data", "fsdp")))
    assert specs["image"] == specs["patches"] == specs["hidden"] == rows
    assert specs["cache"] == str(P(None, ("data", "fsdp"))), "five heads are whole on every device"
    assert {*json.loads((out / "one.json").read_text())["specs"].values()} == {"one device"}


def test_what_fills_up_the_vocabulary_is_never_written(out):
    one, mesh = (np.load(out / f"head-{case}.npz") for case in ("one", "1,1,8"))
    V = one["tokens"]
    assert one["logits"].shape[-1] == V == 684 and mesh["logits"].shape[-1] == 688
    np.testing.assert_allclose(mesh["logits"][:, :V], one["logits"], rtol=0, atol=1e-4)
    assert (mesh["logits"][:, V:] < -1e38).all()


EVALUATE = ("evaluate", "--data", SCENES, "--dataset", DATASET, "--protocol", "guided")


@pytest.mark.usefixtures("no_kept_programs")
def test_options_of_the_commands_reach_the_model(picture, tmp_path, monkeypatch, capsys):
    loaded = []

    def load(*arguments):
        loaded.append(arguments)
        raise ValueError("enough")

    monkeypatch.setattr(loading, "load", load)
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).write_bytes(picture.read_bytes())
    segment = ("segment", tmp_path / "in", "dog", "--out", tmp_path)
    for words in (("segment", picture, "dog", "--out", tmp_path), ("ask", picture, "what?", "--out", tmp_path)):
        failed(capsys, *words, "--dtype", "bfloat16")
        failed(capsys, *words, "--mesh.tensor", "4")
    failed(capsys, *segment)
    failed(capsys, *segment, "--mesh.data", "2")
    failed(capsys, *EVALUATE, "--dtype", "float32", "--mesh.data", "1", "--mesh.fsdp", "2", "--mesh.tensor", "-1")
    failed(capsys, *EVALUATE)
    assert loaded == [
        *[("tiny", "bfloat16", None), ("tiny", None, MeshShape(-1, 1, 4))] * 2,
        ("tiny", None, MeshShape(-1, 1, 1)),
        ("tiny", None, MeshShape(2, 1, 1)),
        ("tiny", "float32", MeshShape(1, 2, -1)),
        ("tiny", None, MeshShape(-1, 1, 1)),
    ]


@pytest.mark.usefixtures("no_kept_programs")
def test_a_mesh_that_does_not_fit_the_devices(capsys):
    assert "tensor=3) does not fit 1 devices" in failed(capsys, *EVALUATE, "--mesh.tensor", "3")
