"""A leg of a training that is interrupted and goes on elsewhere; run by tests/programs/test_elastic.py as a program.

    python -m tests.programs.elastic RUN DATA,FSDP STOP

The mesh is DATA x FSDP devices; the process asks itself to stop when it makes example number STOP. The log has the
records of every update.
"""

import dataclasses
import os
import signal
import sys
import time

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

RECORDS, BATCH_SIZE = 320, 8
STEPS = RECORDS // BATCH_SIZE  # an epoch


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
            if i == self.stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return {"record": np.int32(record), "x": np.random.default_rng(record).normal(size=8).astype(np.float32)}

        return grain.MapDataset.range(RECORDS).seed(seed).shuffle().repeat().map_with_index(example)

    def loss(self, params, batch, key):
        records = {f"record{k}": batch["record"][k] for k in range(BATCH_SIZE)}
        return jnp.square(batch["x"] @ params["line"]["slope"] - 1).mean(), records


if __name__ == "__main__":
    run, mesh, stop = sys.argv[1:]
    hosts.start()
    shape = MeshShape(*map(int, mesh.split(",")), 1)
    options = TrainOptions(STEPS, BATCH_SIZE, 0.1, warmup_steps=1, log_every=1, save_every=100, mesh=shape)
    try:
        train(Epoch(int(stop)), options, run)
    except Preempted:
        sys.exit(EXIT_PREEMPTED)
