"""Kills a training again and again, and holds what it ends with against a run that nobody disturbed.

    python benchmarks/resume.py                     20 kill -9, at least 5 of them inside a save, and 5 SIGTERM
    python benchmarks/resume.py --kills 2 --terms 1 --inside 1

A small network is fitted by the real loop, data and checkpoints. It prints a table with a line for each interruption,
and fails unless every loss in the log and every bit of the result are those of the undisturbed run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np

from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.training.loop import train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.preemption import EXIT_PREEMPTED, Preempted
from grounding_jax.training.run_folder import CHECKPOINTS, LOG_FILE
from grounding_jax.training.task import Task

WIDTH = 1024  # makes a checkpoint of 24 MB, so that a save takes long enough to be interrupted
STEPS, SAVE_EVERY = 400, 5
RESULT = "result.npy"


@dataclasses.dataclass(frozen=True)
class LinearMap(Task):
    """Fits a random linear map."""

    trainable: tuple[str, ...] = (".*",)
    export_keys: tuple[str, ...] = ("map",)

    def init(self, key):
        return {"map": {"kernel": jax.random.normal(key, (WIDTH, WIDTH)), "bias": jnp.zeros(WIDTH)}}

    def sharding(self):
        return ((".*", REPLICATED),)

    def examples(self, seed):
        def example(i, rng):
            time.sleep(2e-3)  # so that the whole takes long enough to be interrupted often
            return {"x": rng.normal(size=WIDTH).astype(np.float32), "y": rng.normal(size=WIDTH).astype(np.float32)}

        return grain.MapDataset.range(10**6).seed(seed).random_map(example)

    def loss(self, params, batch, key):
        guess = batch["x"] @ params["map"]["kernel"] / WIDTH**0.5 + params["map"]["bias"]
        noise = jax.random.normal(key, guess.shape)
        return jnp.square(guess - batch["y"] + 0.1 * noise).mean(), {}


def child(run: Path) -> int:
    """The training that is killed."""
    options = TrainOptions(STEPS, 8, 1e-3, warmup_steps=5, log_every=1, save_every=SAVE_EVERY)
    try:
        params = train(LinearMap(), options, run)
    except Preempted:
        return EXIT_PREEMPTED
    np.save(run / RESULT, np.asarray(params["map"]["kernel"]))
    return 0


def start(run: Path) -> subprocess.Popen:
    """The training in a process of its own."""
    command = [sys.executable, __file__, "--child", str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def losses(run: Path) -> dict[int, float]:
    """The last loss that was logged for each step."""
    file = run / LOG_FILE
    lines = [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")] if file.exists() else []
    return {line["step"]: line["loss"] for line in lines}


def is_saving(run: Path) -> bool:
    """Whether there is a checkpoint that is not complete."""
    folder = run / CHECKPOINTS
    return folder.exists() and any("tmp" in path.name for path in folder.iterdir())


def interrupt(run: Path, process: subprocess.Popen, how: str, rng: random.Random) -> dict:
    """Interrupts a training as soon as it has made some steps, in one of three ways."""
    before = max(losses(run), default=0)
    while max(losses(run), default=0) < before + rng.randrange(1, 2 * SAVE_EVERY) and process.poll() is None:
        time.sleep(0.01)
    if how == "inside a save":
        while not is_saving(run) and process.poll() is None:
            time.sleep(0.001)
    saving = is_saving(run)
    process.send_signal(signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
    status = process.wait()
    saved = [int(path.name) for path in (run / CHECKPOINTS).iterdir() if path.name.isdigit()]
    return {"how": how, "step": max(losses(run)), "saving": saving, "status": status, "newest": max(saved, default=0)}


def disturbed(run: Path, ways: list[str], rng: random.Random) -> list[dict]:
    """Trains to the end in spite of interruptions; what happened at each."""
    happened = []
    for way in ways:
        happened.append(interrupt(run, start(run), way, rng))
        line = happened[-1]
        print(
            f"| {line['how']} | {line['step']} | {line['saving']} | {line['status']} | {line['newest']} |", flush=True
        )
        if (run / RESULT).exists():
            raise SystemExit("the training was over before it was interrupted often enough: raise STEPS")
    if start(run).wait() != 0:
        raise SystemExit(f"the last attempt failed: look into {run}")
    return happened


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kill -9 in all")
    parser.add_argument("--inside", type=int, default=5, help="of them inside a save")
    parser.add_argument("--terms", type=int, default=5, help="SIGTERM")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        return child(asked.child)
    rng = random.Random(asked.seed)
    ways = ["inside a save"] * asked.inside + ["kill -9"] * (asked.kills - asked.inside) + ["SIGTERM"] * asked.terms
    rng.shuffle(ways)
    with tempfile.TemporaryDirectory() as folder:
        quiet, noisy = Path(folder) / "quiet", Path(folder) / "noisy"
        if start(quiet).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        print(
            "| how | last step | a save was going on | exit status | newest whole checkpoint |\n|---|---|---|---|---|"
        )
        happened = disturbed(noisy, ways, rng)
        same_losses = losses(quiet) == losses(noisy)
        same_bits = np.array_equal(np.load(quiet / RESULT), np.load(noisy / RESULT))
    terms = [line for line in happened if line["how"] == "SIGTERM"]
    saved = all(line["status"] == EXIT_PREEMPTED and line["newest"] == line["step"] for line in terms)
    inside = sum(line["saving"] and line["how"] != "SIGTERM" for line in happened)
    print(f"\n{len(happened)} interruptions, {inside} kills inside a save; {STEPS} steps")
    print(f"all losses equal: {same_losses}; result equal bit for bit: {same_bits}; SIGTERM saved its step: {saved}")
    return 0 if same_losses and same_bits and saved and inside >= asked.inside else 1


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
