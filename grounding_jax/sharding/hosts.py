"""Several hosts that run one program: finding each other, and what only one of them may do."""

from __future__ import annotations

import os
import threading
from typing import NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from grounding_jax.terminal import note, one_line

# Set by launch scripts where the platform does not tell (GPUs without Slurm or MPI, and tests).
ADDRESS, COUNT, INDEX = "GROUNDING_COORDINATOR", "GROUNDING_PROCESSES", "GROUNDING_PROCESS"
PATIENCE = 300  # seconds, as JAX's own: machines of a cluster start at different times


class Group(NamedTuple):
    """The processes that run one program, seen by one of them.

    Attributes:
        address: host:port where the first of them waits for the others.
        count: number of processes.
        index: the number of this one, from 0.
        devices: the GPUs of this host that it takes; None all of them.
    """

    address: str
    count: int
    index: int
    devices: list[int] | None = None


def start(patience: float = PATIENCE) -> None:
    """Joins the process group, where there is one; must run before anything asks for devices.

    On a TPU pod, under Slurm, under MPI and in an indexed Kubernetes job, JAX finds the others itself; elsewhere
    `GROUNDING_COORDINATOR` (host:port), `GROUNDING_PROCESSES` and `GROUNDING_PROCESS` name them. A process that is
    alone on its host takes all GPUs there; several share them, one each. A single process needs nothing.

    Args:
        patience: seconds to wait for the others.

    Raises:
        ValueError: the environment names a group that is not whole, or that can't be found.
        OSError: the others did not come, or the port is taken.
    """
    if jax.distributed.is_initialized():
        return
    group = _given() or _detected(patience)
    if group is not None and group.count > 1:
        _join(group, patience)


def _join(group: Group, patience: float) -> None:
    """Waits for the others, in a thread: JAX itself is deaf to Ctrl-C then, and ends in a dump of its stack."""
    if jax.config.jax_platforms == "cpu":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    failed = []

    def connect() -> None:
        try:
            jax.distributed.initialize(
                group.address,
                group.count,
                group.index,
                local_device_ids=group.devices,
                cluster_detection_method="deactivate",  # would give this process one GPU under Slurm and MPI
                initialization_timeout=int(patience) + 60,
            )
        except Exception as error:
            failed.append(error)

    others = f"{group.count - 1} other process{'es' if group.count > 2 else ''} at {group.address}"
    note(f"process {group.index} of {group.count}: waiting for {others} ...")
    waiting = threading.Thread(target=connect, daemon=True)
    waiting.start()
    waiting.join(patience)
    if waiting.is_alive():
        raise TimeoutError(f"process {group.index} of {group.count}: waited {patience:g} s for {others} in vain")
    if failed:
        raise OSError(f"process {group.index} of {group.count} could not join {others}: {failed[0]}") from failed[0]


def _given() -> Group | None:
    """The group that our own variables name."""
    given = [name for name in (ADDRESS, COUNT, INDEX) if name in os.environ]
    if not given:
        return None
    if len(given) < 3:
        missing = " and ".join(sorted({ADDRESS, COUNT, INDEX} - set(given)))
        raise ValueError(f"{', '.join(given)} is set, but {missing} is not: several processes need all three")
    group = Group(os.environ[ADDRESS], _number(COUNT), _number(INDEX))
    if not group.address.rpartition(":")[2].isdigit():
        raise ValueError(f"{ADDRESS} is {group.address!r}, not HOST:PORT")
    if not 0 <= group.index < group.count:
        raise ValueError(f"{INDEX} is {group.index}, not one of 0 to {COUNT} - 1 = {group.count - 1}")
    return group


def _detected(patience: float) -> Group | None:
    """The group that the platform tells of, by JAX's detection."""
    from jax._src.clusters import ClusterEnv  # private, but what `jax.distributed.initialize()` itself asks

    for cluster in filter(_possible, ClusterEnv._cluster_types):
        try:
            if _present(cluster):
                return _group_of(cluster, patience)
        except Exception as error:  # whatever the client of a cluster raises
            reason = f"{cluster.__name__}: can't find the other processes: {one_line(error)}"
            raise OSError(f"{reason}; {ADDRESS}, {COUNT} and {INDEX} can name them") from error
    if _mpi_count() > 1:
        names = f"{ADDRESS}, {COUNT} and {INDEX}"
        raise ValueError(f"mpirun started {_mpi_count()} processes, which need mpi4py to find each other, or {names}")
    if (hosts := _number("SLURM_JOB_NUM_NODES")) > 1:
        note(f"Slurm gave this job {hosts} hosts, but this command uses one: start it with srun to use all")
    return None


def _group_of(cluster: type, patience: float) -> Group | None:
    """The group that a cluster of JAX's tells of; None where this process is the only one."""
    count = cluster.get_process_count()
    if count == 1:
        return None
    port = os.environ.get("JAX_COORDINATOR_PORT")
    address = cluster.get_coordinator_address(timeout_secs=int(patience), override_coordinator_port=port)
    all_gpus = _alone_on_host(cluster, count) or "JAX_LOCAL_DEVICE_IDS" in os.environ  # which JAX reads itself
    local = None if all_gpus else cluster.get_local_process_id()
    return Group(address, count, cluster.get_process_id(), None if local is None else [local])


def _possible(cluster: type) -> bool:
    """Whether a kind of cluster can have started several processes; JAX's own conditions take in single ones as well.

    An allocation of Slurm (sbatch, salloc) runs its shell once, whatever SLURM_NTASKS says. Launchers of MPI start
    their daemons by srun, so there Slurm's numbers are the daemons'. Every pod of Kubernetes has a
    KUBERNETES_SERVICE_HOST. A TPU that this program does not use needs no company.
    """
    name = cluster.__name__  # a Kubernetes cluster has no other
    if name == "SlurmCluster":
        return not _mpi_count() and _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS")) > 1
    if name in ("OmpiCluster", "Mpi4pyCluster"):
        return _mpi_count() > 1
    if name == "K8sCluster":
        return "JOB_COMPLETION_INDEX" in os.environ
    return "tpu" in (jax.config.jax_platforms or "tpu")


def _present(cluster: type) -> bool:
    """Whether JAX recognizes a cluster; a TPU without a metadata server is taken for a single host's."""
    try:
        return cluster.is_env_present()
    except OSError as error:
        note(f"no metadata server tells of other hosts, so this one works alone ({one_line(error)})")
        return False


def _alone_on_host(cluster: type, count: int) -> bool:
    """Whether each host has one process of a group."""
    if cluster.__name__ == "SlurmCluster":
        return _number("SLURM_STEP_NUM_NODES", _number("SLURM_JOB_NUM_NODES")) == count
    return _number("OMPI_COMM_WORLD_LOCAL_SIZE", _number("MPI_LOCALNRANKS")) == 1


def _mpi_count() -> int:
    """How many processes an MPI launcher (Open MPI; MPICH and Intel MPI) started; 0 if there was none."""
    return _number("OMPI_COMM_WORLD_SIZE") or (_number("PMI_SIZE") if "MPI_LOCALNRANKS" in os.environ else 0)


def _number(variable: str, missing: int = 0) -> int:
    """A variable of the environment that counts something."""
    text = os.environ.get(variable, str(missing))
    if not text.isdecimal():
        raise ValueError(f"{variable} is {text!r}, not a number")
    return int(text)


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
