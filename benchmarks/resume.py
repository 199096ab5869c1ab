"""Kills a training again and again, and holds what it ends with against a run that nobody disturbed.

    python benchmarks/resume.py                     20 kill -9, at least 5 of them inside a save, and 5 SIGTERM
    python benchmarks/resume.py --kills 2 --terms 1 --inside 1
    python benchmarks/resume.py --task gella --kills 10 --terms 2

A small network is fitted by the real loop, data and checkpoints; or a system is trained by the recipe of its 7B, on the
scenes in the package, in the sizes of its tiny model or smaller. It prints a table with a line for each interruption,
and fails unless every loss in the log and every bit of the result are those of the undisturbed run.
"""

from __future__ import annotations

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
from typing import Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import traverse_util

from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.tiny.vocabulary import tiny_config, tiny_tokenizer
from gella_jax.training.experiment import GELLA
from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.terminal import keep_compiled_programs
from grounding_jax.training.experiment import debugged, load_config
from grounding_jax.training.loop import train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.preemption import EXIT_PREEMPTED, Preempted
from grounding_jax.training.run_folder import CHECKPOINTS, LOG_FILE
from grounding_jax.training.task import Task
from gsva_jax.loading import find_checkpoint
from gsva_jax.training.experiment import GSVA

WIDTH = 1024  # makes a checkpoint of 24 MB, so that a save takes long enough to be interrupted
SAVE_EVERY = 5
RESULT = "result.npz"


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


def linear() -> tuple[Task, TrainOptions]:
    """The small network."""
    return LinearMap(), TrainOptions(1, 8, 1e-3, warmup_steps=5)


def gsva() -> tuple[Task, TrainOptions]:
    """GSVA-7B's recipe, with the shipped tiny model."""
    experiment = debugged(load_config(GSVA, "gsva_7b"))
    recipe = dataclasses.replace(experiment.recipe, validation="")
    return recipe.task(find_checkpoint("tiny")), experiment.options


def gella() -> tuple[Task, TrainOptions]:
    """GELLA-7B's recipe, with a random model smaller than the tiny one, and masks that are compared at few points."""
    experiment = debugged(load_config(GELLA, "gella_7b"))
    weights = LossWeights(terms=SegmentationWeights(points=64))
    recipe = dataclasses.replace(experiment.recipe, validation="", weights=weights, remat="none")
    model = tiny_config()
    decoder = dataclasses.replace(model.mask2former, encoder_layers=1, decoder_layers=2, queries=12)
    model = dataclasses.replace(model, mask2former=decoder, side=64)
    return recipe.task_for(model, tiny_tokenizer()), experiment.options


TASKS = {"linear": linear, "gsva": gsva, "gella": gella}
CHILD = "child"  # first word of the command line of the training that is killed


@dataclasses.dataclass(frozen=True)
class Options:
    """What is trained, and how it is interrupted.

    Attributes:
        task: what is trained.
        steps: updates in all.
        kills: kill -9 in all.
        inside: of them inside a save.
        terms: SIGTERM.
        seed: of the moments.
    """

    task: Literal["linear", "gsva", "gella"] = "linear"
    steps: int = 400
    kills: int = 20
    inside: int = 5
    terms: int = 5
    seed: int = 0


def child(name: str, steps: str, run: str) -> int:
    """The training that is killed."""
    keep_compiled_programs()
    task, options = TASKS[name]()
    options = dataclasses.replace(options, steps=int(steps), log_every=1, save_every=SAVE_EVERY)
    try:
        params = train(task, options, run)
    except Preempted:
        return EXIT_PREEMPTED
    np.savez(Path(run) / RESULT, **traverse_util.flatten_dict(jax.device_get(params), sep="/"))
    return 0


def start(asked: Options, run: Path) -> subprocess.Popen:
    """The training in a process of its own."""
    command = [sys.executable, __file__, CHILD, asked.task, str(asked.steps), str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def same(first: Path, second: Path) -> bool:
    """Whether the arrays of two files are equal bit for bit."""
    with np.load(first) as one, np.load(second) as other:
        return one.files == other.files and all(one[name].tobytes() == other[name].tobytes() for name in one.files)


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


def disturbed(asked: Options, run: Path, ways: list[str], rng: random.Random) -> list[dict]:
    """Trains to the end in spite of interruptions; what happened at each."""
    happened = []
    for way in ways:
        happened.append(interrupt(run, start(asked, run), way, rng))
        line = happened[-1]
        print(
            f"| {line['how']} | {line['step']} | {line['saving']} | {line['status']} | {line['newest']} |", flush=True
        )
        if (run / RESULT).exists():
            raise SystemExit("the training was over before it was interrupted often enough: give more --steps")
    if start(asked, run).wait() != 0:
        raise SystemExit(f"the last attempt failed: look into {run}")
    return happened


def main(asked: Options) -> int:
    """Interrupts, and prints the table; the exit status."""
    rng = random.Random(asked.seed)
    ways = ["inside a save"] * asked.inside + ["kill -9"] * (asked.kills - asked.inside) + ["SIGTERM"] * asked.terms
    rng.shuffle(ways)
    with tempfile.TemporaryDirectory() as folder:
        quiet, noisy = Path(folder) / "quiet", Path(folder) / "noisy"
        if start(asked, quiet).wait() != 0:
            raise SystemExit("the undisturbed run failed")
        print(
            "| how | last step | a save was going on | exit status | newest whole checkpoint |\n|---|---|---|---|---|"
        )
        happened = disturbed(asked, noisy, ways, rng)
        same_losses = losses(quiet) == losses(noisy)
        same_bits = same(quiet / RESULT, noisy / RESULT)
    terms = [line for line in happened if line["how"] == "SIGTERM"]
    saved = all(line["status"] == EXIT_PREEMPTED and line["newest"] == line["step"] for line in terms)
    inside = sum(line["saving"] and line["how"] != "SIGTERM" for line in happened)
    print(f"\n{len(happened)} interruptions, {inside} kills inside a save; {asked.steps} steps")
    print(f"all losses equal: {same_losses}; result equal bit for bit: {same_bits}; SIGTERM saved its step: {saved}")
    return 0 if same_losses and same_bits and saved and inside >= asked.inside else 1


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == [CHILD] else main(tyro.cli(Options)))
