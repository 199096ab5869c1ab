"""Several hosts that run one program: finding each other, and what only one of them may do."""

from __future__ import annotations

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

# Set by launch scripts where the platform does not tell (GPUs without Slurm or MPI, and tests).
ADDRESS, COUNT, INDEX = "GROUNDING_COORDINATOR", "GROUNDING_PROCESSES", "GROUNDING_PROCESS"


def start() -> None:
    """Joins the process group, where there is one; must run before anything asks for devices.

    On a TPU pod, under Slurm and under MPI, JAX finds the others itself; elsewhere `GROUNDING_COORDINATOR` (host:port),
    `GROUNDING_PROCESSES` and `GROUNDING_PROCESS` name them. A single host needs nothing.

    Raises:
        ValueError: only some of the variables are set.
    """
    given = [name for name in (ADDRESS, COUNT, INDEX) if name in os.environ]
    if given and len(given) < 3:
        missing = " and ".join(sorted({ADDRESS, COUNT, INDEX} - set(given)))
        raise ValueError(f"{', '.join(given)} is set, but {missing} is not: several processes need all three")
    if given:
        if jax.config.jax_platforms == "cpu":
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(os.environ[ADDRESS], int(os.environ[COUNT]), int(os.environ[INDEX]))
    elif _on_a_pod() and not jax.distributed.is_initialized():
        jax.distributed.initialize()


def _on_a_pod() -> bool:
    """Whether the platform has started this program on several hosts."""
    workers = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(workers) > 1 or int(os.environ.get("SLURM_NTASKS", 1)) > 1 or "OMPI_COMM_WORLD_SIZE" in os.environ


def is_first() -> bool:
    """Whether this process is the one that prints and writes what is written once."""
    return jax.process_index() == 0


def gather(array: jax.Array) -> np.ndarray | None:
    """An array that is spread over the hosts, whole in the first process, None in the others; all must call it."""
    whole = array if array.is_fully_addressable else multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(whole) if is_first() else None


def wait_for_all(what: str) -> None:
    """Returns when every process has come to this line."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)
