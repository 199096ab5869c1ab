"""Which processes find each other, and which GPUs each takes: by the variables that launchers set."""

import os
import socket
import subprocess
import sys

import jax
import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster, k8s_cluster

from grounding_jax.sharding import hosts
from tests.programs import processes

LAUNCHERS = (
    "JAX_COORDINATOR",
    "JAX_LOCAL",
    "SLURM_",
    "OMPI_",
    "PMI_",
    "MPI_",
    "TPU_",
    "MEGASCALE_",
    "GROUNDING_",
    "KUBERNETES_",
    "JOB_COMPLETION_INDEX",
)
SLURM = {"SLURM_JOB_ID": "4097", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "2"}
STEP = {**SLURM, "SLURM_STEP_NODELIST": "gpu[07-08]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
MPIRUN = {
    "OMPI_MCA_orte_hnp_uri": "8192.0;tcp://10.0.0.7,10.1.0.7:34911",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
}
WORKERS = "w-0,w-1,w-2"


@pytest.fixture
def joined(monkeypatch) -> list[tuple]:
    """The groups that are joined; the environment is that of no launcher."""
    for name in [name for name in os.environ if name.startswith(LAUNCHERS)]:
        monkeypatch.delenv(name)
    groups = []

    def initialize(address, count, index, *, local_device_ids, **options):
        groups.append((address, count, index, local_device_ids))

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    return groups


@pytest.fixture
def tpu(monkeypatch, joined) -> dict[str, str]:
    """A worker of a Cloud TPU VM that ssh tells nothing; gives what its metadata server knows."""
    known = {}
    for module in (cloud_tpu_init, cloud_tpu_cluster):
        monkeypatch.setattr(module, "running_in_cloud_tpu_vm", True)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (known.get(key, ""), 200 if known else 404))
    monkeypatch.setattr(cloud_tpu_cluster.BaseTpuCluster, "wait_for_coordinator", lambda *arguments: None)
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", "tpu,cpu")
    yield known
    jax.config.update("jax_platforms", before)


@pytest.mark.parametrize(
    ("environment", "group"),
    [
        # one process a host takes all its GPUs, several take one each
        ({**STEP, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2"}, ("gpu07:61441", 2, 1, None)),
        ({**STEP, "SLURM_LOCALID": "1", "SLURM_STEP_NUM_NODES": "1"}, ("gpu07:61441", 2, 1, [1])),
        (
            {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
            ("10.0.0.7:61442", 4, 3, None),
        ),
        (
            {**MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            ("10.0.0.7:61442", 4, 3, [1]),
        ),
        ({**STEP, "SLURM_STEP_NUM_NODES": "1", "JAX_LOCAL_DEVICE_IDS": "0,1"}, ("gpu07:61441", 2, 1, None)),
        # the daemons of MPI are Slurm's tasks, the processes are not
        (
            {**STEP, **MPIRUN, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "SLURM_STEP_NUM_NODES": "2"},
            ("10.0.0.7:61442", 4, 3, None),
        ),
        # what we are told goes before what a platform tells
        (
            {**STEP, hosts.ADDRESS: "first:1234", hosts.COUNT: "3", hosts.INDEX: "2"},
            ("first:1234", 3, 2, None),
        ),
    ],
)
def test_processes_find_each_other(monkeypatch, joined, capsys, environment, group):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.start()
    assert joined == [group]
    address, count, index, _ = group
    others = "1 other process" if count == 2 else f"{count - 1} other processes"
    assert capsys.readouterr().err == f"process {index} of {count}: waiting for {others} at {address} ...\n"


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, ""),
        ({"SLURM_NTASKS": "4"}, ""),
        # the shell of sbatch on one host and on two, and of salloc with an interactive step
        ({**SLURM, "SLURM_NTASKS": "4", "SLURM_JOB_NUM_NODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, ""),
        (
            {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
            "2 hosts, but this command uses one: start it with srun",
        ),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0", "SLURM_JOB_NUM_NODES": "1"}, ""),
        ({"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, ""),
        ({hosts.ADDRESS: "here:1", hosts.COUNT: "1", hosts.INDEX: "0"}, ""),
        # a container in a cluster of Kubernetes, which has nothing to do with it
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ""),
        # no TPU here, whatever was left in the environment
        ({"TPU_WORKER_HOSTNAMES": WORKERS, "TPU_WORKER_ID": "0"}, ""),
    ],
)
def test_a_process_that_was_started_once_works_alone(monkeypatch, joined, capsys, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    hosts.start()
    assert joined == []
    error = capsys.readouterr().err
    assert (said in error and error.count("\n") == 1) if said else error == ""


def test_an_interactive_shell_of_two_hosts_says_how_to_use_both(monkeypatch, joined, capsys):
    """salloc's interactive step has Slurm's variables, those of the whole allocation among them."""
    for name, value in {**STEP, "SLURM_STEP_NUM_TASKS": "1"}.items():
        monkeypatch.setenv(name, value)
    hosts.start()
    assert joined == [] and "start it with srun" in capsys.readouterr().err


def test_workers_of_a_tpu_ask_the_metadata_server(tpu, joined):
    tpu |= {"agent-worker-number": "2", "worker-network-endpoints": WORKERS, "tpu-env": ""}
    hosts.start()
    assert joined == [("w-0:8482", 3, 2, None)]


def test_workers_of_a_tpu_in_kubernetes_are_told(tpu, joined, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", WORKERS)
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setattr(cloud_tpu_cluster, "get_tpu_env_value", os.environ.get)
    hosts.start()
    assert joined == [("w-0:8482", 3, 1, None)]


@pytest.mark.parametrize(
    "metadata", [{}, {"agent-worker-number": "0", "worker-network-endpoints": "w-0", "tpu-env": ""}]
)
def test_a_single_tpu_host_works_alone(tpu, joined, metadata):
    tpu |= metadata
    hosts.start()
    assert joined == []


def test_a_tpu_that_is_not_used_needs_nobody(tpu, joined):
    tpu |= {"agent-worker-number": "2", "worker-network-endpoints": WORKERS, "tpu-env": ""}
    jax.config.update("jax_platforms", "cpu")
    hosts.start()
    assert joined == []


def test_a_tpu_without_a_metadata_server_works_alone(tpu, joined, monkeypatch, capsys):
    def nobody(key):
        raise ConnectionError("metadata.google.internal: Name or service not known")

    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", nobody)
    hosts.start()
    assert joined == [] and "no metadata server tells of other hosts" in capsys.readouterr().err


def test_others_that_a_platform_hides_are_an_error(joined, monkeypatch):
    """An indexed job of Kubernetes whose pods may not ask for it."""
    cluster = k8s_cluster.K8sCluster
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setattr(cluster, "is_env_present", lambda: True)

    def refuse():
        raise RuntimeError("Kubernetes API Error: 403 - Forbidden")

    monkeypatch.setattr(cluster, "get_process_count", refuse)
    with pytest.raises(OSError, match="K8sCluster: .* 403 - Forbidden; GROUNDING_COORDINATOR"):
        hosts.start()


def test_jobs_of_kubernetes_find_each_other(joined, monkeypatch):
    cluster = k8s_cluster.K8sCluster
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setattr(cluster, "is_env_present", lambda: True)
    monkeypatch.setattr(cluster, "get_process_count", lambda: 2)
    monkeypatch.setattr(cluster, "get_coordinator_address", lambda **options: "job-0.pods:55527")
    hosts.start()
    assert joined == [("job-0.pods:55527", 2, 1, None)]


@pytest.mark.parametrize(
    ("environment", "wrong"),
    [
        (
            {hosts.ADDRESS: "here:1"},
            "GROUNDING_COORDINATOR is set, but GROUNDING_PROCESS and GROUNDING_PROCESSES is not",
        ),
        ({hosts.ADDRESS: "here", hosts.COUNT: "2", hosts.INDEX: "0"}, "GROUNDING_COORDINATOR is 'here', not HOST:PORT"),
        ({hosts.ADDRESS: "here:1", hosts.COUNT: "two", hosts.INDEX: "0"}, "GROUNDING_PROCESSES is 'two', not a number"),
        ({hosts.ADDRESS: "here:1", hosts.COUNT: "2", hosts.INDEX: "2"}, "GROUNDING_PROCESS is 2, not one of 0 to"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun started 4 processes, which need mpi4py to find each other"),
        ({"PMI_SIZE": "4", "MPI_LOCALNRANKS": "1"}, "mpirun started 4 processes, which need mpi4py to find each other"),
    ],
)
def test_a_group_that_is_not_whole_is_an_error(joined, monkeypatch, environment, wrong):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=wrong):
        hosts.start()
    assert joined == []


PROGRAM = """
import sys
from grounding_jax.sharding import hosts
try:
    hosts.start(float(sys.argv[1]))
except OSError as error:
    sys.exit(str(error))
import jax
print(jax.process_index(), jax.process_count(), jax.device_count())
"""


def slurm_task(index: int, patience: float, port: int) -> subprocess.Popen:
    """One of two tasks of Slurm, both on this machine, that wait for each other."""
    environment = {
        "JAX_COORDINATOR_PORT": str(port),
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **STEP,
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "2",
        "SLURM_PROCID": str(index),
    }
    return processes.start([sys.executable, "-c", PROGRAM, str(patience)], environment)


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_tasks_of_slurm_work_together(port):
    done = processes.finish(*(slurm_task(index, 300, port) for index in range(2)))
    assert [(task.stdout, task.returncode) for task in done] == [("0 2 2\n", 0), ("1 2 2\n", 0)], done


@pytest.mark.parametrize("index", [0, 1])
def test_a_task_that_waits_in_vain_ends_with_a_line(port, index):
    (done,) = processes.finish(slurm_task(index, 1, port))
    there = f"1 other process at localhost:{port}"
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"process {index} of 2: waiting for {there} ...",
        f"process {index} of 2: waited 1 s for {there} in vain",
    ]
