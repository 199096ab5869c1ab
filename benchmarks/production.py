"""Trains the tiny GSVA by the way of the large ones, and holds the result against that of its own lesson.

    python benchmarks/production.py --runs RUNS      RUNS has gsva_tiny and those before it (docs/tiny.md)

Scenes are written and packed; two processes train `gsva_tiny_packed` on them, each batch in two micro-batches; SIGTERM
interrupts them in the middle, and the same command resumes. Both models then answer about the same held-out scenes. It
prints a table, and fails if the new model is worse than that of `gsva_tiny` by more than 0.02. Called again, it goes on
where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import tyro

import gsva_jax
from grounding_jax.data.scenes.write import write_scenes
from grounding_jax.sharding.hosts import ADDRESS, COUNT, INDEX
from grounding_jax.training.preemption import EXIT_PREEMPTED
from grounding_jax.training.run_folder import LOG_FILE, RESULT
from gsva_jax.evaluation.run import evaluate
from gsva_jax.training.experiment import load_config

CONFIG, PLAIN = "gsva_tiny_packed", "gsva_tiny"
PROCESSES = 2
MOST_LOST = 0.02
METRICS = ("gIoU", "cIoU", "N_acc", "T_acc")
GSVA = Path(sys.executable).with_name("gsva")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train on, and what to measure with.

    Attributes:
        runs: folder of all runs; this one is ``gsva_tiny_packed`` there.
        scenes: to train on.
        tests: scenes of split test to measure with.
        seed: of the training.
    """

    runs: Path = Path("runs")
    scenes: int = 25600
    tests: int = 500
    seed: int = 5


def main(options: Options) -> None:
    """Does what is not done yet, and prints the table."""
    place = options.runs / CONFIG
    written, packed = (options.runs / f"{name}-{options.scenes}" for name in ("scenes", "packed"))
    if not written.exists():
        drawn = ("--num", str(options.scenes), "--seed", str(options.seed), "--size", "144")
        subprocess.run([GSVA, "data", "scenes", "--out", written, *drawn, "--split", "train"], check=True)
    subprocess.run([GSVA, "data", "prepare", written, packed, "--datasets", "grefcoco|unc|train"], check=True)
    command = ["train", CONFIG, "--runs", options.runs, "--data", packed, "--seed", str(options.seed)]
    while not (place / RESULT / "config.json").exists():
        steps = train(command, place)
        print(f"the processes have stopped after {steps} updates")
    tests = options.runs / f"test-1-{options.tests}"
    if not tests.exists():
        write_scenes(tests, options.tests, 1, "test")
    compare({PLAIN: options.runs / PLAIN / RESULT, "packed, two processes": place / RESULT}, tests)


def train(command: list, place: Path) -> int:
    """Runs the processes, with SIGTERM in the middle of the whole training; the number of updates made.

    Raises:
        RuntimeError: a process ended with another status than it should have.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    shared = {**os.environ, ADDRESS: address, COUNT: str(PROCESSES)}
    processes = [subprocess.Popen([GSVA, *command], env={**shared, INDEX: str(i)}) for i in range(PROCESSES)]
    middle = load_config(CONFIG).options.steps // 2
    interrupted = updates(place) >= middle  # before
    expected = 0 if interrupted else EXIT_PREEMPTED
    while any(process.poll() is None for process in processes):
        if not interrupted and updates(place) >= middle:
            interrupted = True
            processes[-1].send_signal(signal.SIGTERM)  # one host is enough: they agree on the update to stop at
        time.sleep(1)
    statuses = {process.returncode for process in processes}
    if statuses != {expected}:
        raise RuntimeError(f"the processes ended with the statuses {statuses}")
    return updates(place)


def updates(place: Path) -> int:
    """That the log of a run knows of."""
    log = place / LOG_FILE
    lines = log.read_text().splitlines() if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def compare(models: dict[str, Path], tests: Path) -> None:
    """Prints what the models say about held-out scenes.

    Raises:
        SystemExit: the last one is worse than the first one.
    """
    reports = {
        name: evaluate(gsva_jax.load(model), tests, "grefcoco|unc|testA", "generated", batch_size=16)
        for name, model in models.items()
    }
    print(f"\n| model | {' | '.join(METRICS)} |\n|---|{'---|' * len(METRICS)}")
    for name, report in reports.items():
        print(f"| {name} | {' | '.join(f'{report[metric]:.3f}' for metric in METRICS)} |")
    first, *_, last = reports.values()
    lost = {metric: first[metric] - last[metric] for metric in METRICS}
    sys.exit(f"worse by {lost}" if max(lost.values()) > MOST_LOST else 0)


if __name__ == "__main__":
    main(tyro.cli(Options))
