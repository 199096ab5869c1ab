"""A leg of a training that is interrupted and goes on elsewhere; run by tests/programs/test_elastic.py as a program.

    python -m tests.programs.elastic TASK RUN DATA,FSDP STOP [FOLDER]

The mesh is DATA x FSDP devices; the process asks itself to stop when it makes example number STOP. The task is "line",
whose log has the records of every update, or "gella", which learns from the datasets in FOLDER.
"""

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path

import grain
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from grounding_jax.sharding import hosts
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.loop import train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.preemption import EXIT_PREEMPTED, Preempted
from grounding_jax.training.task import Task
from tests.small_gella import small_params, small_task

RECORDS, BATCH_SIZE = 320, 8
STEPS = RECORDS // BATCH_SIZE  # an epoch
GELLA_STEPS = 6


@dataclasses.dataclass(frozen=True)
class Epoch(Task):
    """Fits a line to shuffled records; see `Task`."""

    stop: int
    trainable: tuple[str, ...] = (".*",)
    export_keys: tuple[str, ...] = ("line",)

    def init(self, key):
        return {"line": {"slope": jnp.zeros(8)}}

    def sharding(self):
        return ((".*", P("fsdp")),)

    def examples(self, seed):
        def example(i, record):
            time.sleep(0.1)  # two hosts need some updates to agree on the one to stop at
            return {"record": np.int32(record), "x": np.random.default_rng(record).normal(size=8).astype(np.float32)}

        return stopping(
            grain.MapDataset.range(RECORDS).seed(seed).shuffle().repeat().map_with_index(example), self.stop
        )

    def loss(self, params, batch, key):
        records = {f"record{k}": batch["record"][k] for k in range(BATCH_SIZE)}
        return jnp.square(batch["x"] @ params["line"]["slope"] - 1).mean(), records


def stopping(examples: grain.MapDataset, stop: int) -> grain.MapDataset:
    """Examples that ask the process to stop when a certain one is made."""

    def example(i, example):
        if i == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return example

    return examples.map_with_index(example)


def line(stop: int) -> tuple[Task, TrainOptions, dict]:
    """An epoch of the small task."""
    return Epoch(stop), TrainOptions(STEPS, BATCH_SIZE, 0.1, warmup_steps=1, log_every=1, save_every=100), {}


def gella(stop: int, folder: str) -> tuple[Task, TrainOptions, dict]:
    """The small GELLA, its dropout included."""
    task = small_task(Path(folder))
    data = task.data
    task = dataclasses.replace(task, data=lambda seed: stopping(data(seed), stop))
    options = TrainOptions(GELLA_STEPS, 4, 1e-3, warmup_steps=1, log_every=1, save_every=100)
    return task, options, task.import_params(small_params())


if __name__ == "__main__":
    name, run, mesh, stop, *more = sys.argv[1:]
    hosts.start()
    task, options, init = {"line": line, "gella": gella}[name](int(stop), *more)
    try:
        train(task, dataclasses.replace(options, mesh=MeshShape(*map(int, mesh.split(",")), 1)), run, init)
    except Preempted:
        sys.exit(EXIT_PREEMPTED)
