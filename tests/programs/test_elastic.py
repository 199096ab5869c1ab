"""A training goes on with another mesh and another number of hosts: no example is left out and none comes twice."""

import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest

from grounding_jax.sharding.hosts import ADDRESS, COUNT, INDEX
from grounding_jax.training.preemption import EXIT_PREEMPTED
from tests.programs import processes
from tests.programs.elastic import BATCH_SIZE, GELLA_STEPS, RECORDS, STEPS
from tests.programs.test_sharding import QUICK
from tests.small_panoptic import write_narratives, write_panoptic_tree

NEVER = "-1"


def leg(run: Path, mesh: str, stop: str, count: int, devices: int, task: tuple[str, ...] = ("line",)) -> None:
    """Runs a part of the training on ``count`` hosts of ``devices`` devices each."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "NPROC": "16",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}{QUICK}",
        "JAX_COMPILATION_CACHE_DIR": str(run.parent / "compiled"),  # two legs on one device compile once
    }
    if count > 1:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            environment |= {ADDRESS: f"localhost:{free.getsockname()[1]}", COUNT: str(count)}
    name, *more = task
    command = [sys.executable, "-m", "tests.programs.elastic", name, str(run), mesh, stop, *more]
    own = [{INDEX: str(index)} if count > 1 else {} for index in range(count)]
    expected = 0 if stop == NEVER else EXIT_PREEMPTED
    for done in processes.finish(*(processes.start(command, environment | index) for index in own)):
        assert done.returncode == expected, done.stdout + done.stderr


def log_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def moved(tmp_path_factory):
    """One host of 8 devices, then two hosts of 4, then one device."""
    run = tmp_path_factory.mktemp("moved")
    leg(run, "2,4", str(3 * BATCH_SIZE + 1), count=1, devices=8)
    leg(run, "4,2", str(8 * BATCH_SIZE + 1), count=2, devices=4)
    leg(run, "1,1", NEVER, count=1, devices=1)
    return log_of(run)


def test_every_record_comes_once_in_the_epoch(moved):
    assert [line["step"] for line in moved] == list(range(1, STEPS + 1))
    records = [int(line[f"record{k}"]) for line in moved for k in range(BATCH_SIZE)]
    assert sorted(records) == list(range(RECORDS))


def test_losses_are_those_of_a_training_that_stayed(moved, tmp_path):
    leg(tmp_path, "1,1", NEVER, count=1, devices=1)
    stayed = log_of(tmp_path)
    np.testing.assert_allclose([line["loss"] for line in moved], [line["loss"] for line in stayed], rtol=1e-5)
    names = [f"record{k}" for k in range(BATCH_SIZE)]
    assert [[line[name] for name in names] for line in moved] == [[line[name] for name in names] for line in stayed]


@pytest.mark.slow
def test_gella_moves_too(tmp_path):
    """From two hosts with a mesh of four devices to one device: every term of every update, matching included."""
    write_panoptic_tree(tmp_path)
    write_narratives(tmp_path)
    task = "gella", str(tmp_path)
    leg(tmp_path / "stayed", "1,1", NEVER, count=1, devices=1, task=task)
    leg(tmp_path / "moved", "2,2", "5", count=2, devices=2, task=task)
    assert 0 < len(log_of(tmp_path / "moved")) < GELLA_STEPS
    leg(tmp_path / "moved", "1,1", NEVER, count=1, devices=1, task=task)
    moved, stayed = log_of(tmp_path / "moved"), log_of(tmp_path / "stayed")
    assert [line["step"] for line in moved] == list(range(1, GELLA_STEPS + 1))
    for name in ("loss", "classes", "mask", "dice", "association", "answer", "grad_norm"):
        values = [[line[name] for line in lines] for lines in (moved, stayed)]
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=name)
