"""Meshes, strict sharding tables, and the golden training step on one, eight and two times four devices."""

import json
import socket
import subprocess
import sys

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import gella_jax.model
import gella_jax.sharding
from gella_jax.config import GellaConfig
from grounding_jax.sharding.mesh import MeshShape, check_batch, make_mesh
from grounding_jax.sharding.rules import REPLICATED, shardings
from grounding_jax.training.state import partition, path_matcher, state_shardings
from grounding_jax.weights.folder import open_folder
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.sharding import table
from gsva_jax.training.task import TRAINED
from gsva_jax.weights import open_official
from tests.programs import processes

EIGHT = "--xla_force_host_platform_device_count=8"
# What costs time here is to compile one update for every case: without optimizations it takes a quarter.
QUICK = " --xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # newer ones don't know it
    QUICK += " --xla_cpu_use_fusion_emitters=false"
# data, fsdp, tensor, accumulate, dropout (see sharded_golden.py). Together they have one device and all axes, with
# dropout and without, in one process and in two, and micro-batches of two rows and of four.
PLAIN = "2,2,2,2,0"
DROPPED = "1,1,1,4,1"
IN_TWO = ("1,4,2,2,1", "2,2,2,0,0")


def start(golden, out, cases, **environment) -> subprocess.Popen:
    """The program of this test file, in the background."""
    command = [sys.executable, "-m", "tests.programs.sharded_golden", str(golden), str(out), *cases]
    return processes.start(command, environment)


def finish(*programs: subprocess.Popen) -> None:
    for done in processes.finish(*programs):
        assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def eight(gsva_golden, tmp_path_factory) -> dict:
    """All cases of one process with eight devices."""
    out = tmp_path_factory.mktemp("eight") / "out.json"
    finish(start(gsva_golden, out, (PLAIN, DROPPED), XLA_FLAGS=EIGHT + QUICK))
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def two(gsva_golden, tmp_path_factory, eight) -> list[dict]:
    """What each of two processes with four devices sees; after `eight`, since there are only so many cores."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("two")
    outs = [folder / f"{i}.json" for i in range(2)]
    shared = {
        "XLA_FLAGS": EIGHT.replace("8", "4") + QUICK,
        "GROUNDING_COORDINATOR": f"127.0.0.1:{port}",
        "GROUNDING_PROCESSES": "2",
    }
    finish(*(start(gsva_golden, out, IN_TWO, **shared, GROUNDING_PROCESS=str(i)) for i, out in enumerate(outs)))
    return [{**json.loads(out.read_text()), "models": folder} for out in outs]


@pytest.fixture(scope="module")
def released(gsva_golden):
    """loss, ce, bce, dice and gradient norm of the release's first updates."""
    return np.load(gsva_golden / "train_batch.npz")["adamw_trajectory"][:2]


def test_losses_and_gradients_are_those_of_the_release(eight, released):
    """On a mesh and in micro-batches, which loss groups span. On one device: tests/gsva/test_training_golden.py."""
    np.testing.assert_allclose(eight[PLAIN]["trajectory"], released, rtol=1e-4)


def test_dropout_depends_on_the_example_alone(two, eight, released):
    """Not on micro-batches, devices and processes; and it does drop something."""
    one, other = np.array(eight[DROPPED]["trajectory"]), np.array(two[0][IN_TWO[0]]["trajectory"])
    np.testing.assert_allclose(other, one, rtol=1e-4)
    assert np.abs(one[:, 0] - released[:, 0]).max() > 1e-3


def test_two_processes_see_the_same_and_load_their_own_rows(two):
    first, second = two
    assert first[IN_TWO[0]]["trajectory"] == second[IN_TWO[0]]["trajectory"]
    for case in IN_TWO:
        assert sorted(first[case]["rows"] + second[case]["rows"]) == list(range(8)), "each host loads its own rows"


def test_two_processes_write_one_model(two, gsva_golden):
    """Though each has only a part of every array: bit for bit what they started from."""
    paths = gsva_golden / "gsva-tiny-a.bin", gsva_golden / "tiny-llava"
    expected = open_official(*paths, sizes=gsva_golden / "config.json").leaves
    for case in IN_TWO:
        written = open_folder(two[0]["models"] / case)
        assert written.keys() == expected.keys()
        for path, leaf in expected.items():
            np.testing.assert_array_equal(written[path].read(), leaf.read().astype(np.float32), err_msg=path)


def test_parameters_and_moments_lie_as_the_table_says(eight):
    for result in eight.values():
        assert result["embedding"] == result["moment"] == str(P("tensor", "fsdp"))
        assert result["frozen"] == str(P(None, "tensor", "fsdp")) and result["batch"]


@pytest.mark.parametrize("name", ["gsva_7b", "gsva_13b", "gsva_13b_llama2"])
def test_tables_fit_the_published_sizes(name):
    """Every parameter matches one rule and every rule something. The vocabulary is padded when weights are loaded."""
    shapes = jax.eval_shape(lambda key: model.init(getattr(GsvaConfig, name)(), key), jax.random.key(0))
    mesh = make_mesh(MeshShape(1, 1, 1), jax.devices()[:1])
    placed = shardings(mesh, table(getattr(GsvaConfig, name)()), shapes)
    assert jax.tree.structure(placed) == jax.tree.structure(shapes)
    assert placed["llama"]["layers"]["attn"]["q"]["lora_b"].spec == P(None, None, "tensor")


@pytest.mark.parametrize(
    "system, config, rules, trained",
    [
        (model, GsvaConfig.gsva_7b(), table, TRAINED),
        (gella_jax.model, GellaConfig.gella_7b(), gella_jax.sharding.table, ("backbone", "mask2former", "blend")),
    ],
)
def test_moments_lie_like_their_parameters(system, config, rules, trained):
    """At the published sizes, split where their parameters are."""
    shapes = jax.eval_shape(lambda key: system.init(config, key), jax.random.key(0))
    mesh = make_mesh(MeshShape(1, 1, 1), jax.devices()[:1])
    chosen = path_matcher(trained)
    own, laid = (partition(tree, chosen)[0] for tree in (shapes, shardings(mesh, rules(config), shapes)))
    placed = state_shardings(optax.adamw(1e-3), own, laid, jax.sharding.NamedSharding(mesh, REPLICATED))
    for moment in ("mu", "nu"):
        assert optax.tree.get(placed.opt_state, moment) == laid
    assert any("fsdp" in str(sharding.spec) for sharding in jax.tree.leaves(laid))


def test_a_table_is_strict():
    mesh = make_mesh(MeshShape(1, 1, 1), jax.devices()[:1])
    shapes = {"a": {"kernel": np.zeros((4, 6)), "bias": np.zeros(6)}}
    rules = (("a/kernel", P("fsdp", "tensor")), ("a/bias", REPLICATED))
    assert shardings(mesh, rules, shapes)["a"]["kernel"].spec == P("fsdp", "tensor")
    with pytest.raises(ValueError, match="a/bias matches no rule"):
        shardings(mesh, rules[:1], shapes)
    with pytest.raises(ValueError, match="a/kernel matches a/kernel and a/ker.*"):
        shardings(mesh, (*rules, ("a/ker.*", REPLICATED)), shapes)
    with pytest.raises(ValueError, match="nothing matches b/kernel"):
        shardings(mesh, (*rules, ("b/kernel", REPLICATED)), shapes)
    with pytest.raises(ValueError, match="a/bias has 1 dimensions, its rule 2"):
        shardings(mesh, (rules[0], ("a/bias", P(None, "fsdp"))), shapes)


def test_the_shape_of_a_mesh():
    assert MeshShape(data=2, fsdp=-1, tensor=2).resolve(16) == (2, 4, 2)
    for shape in (MeshShape(3), MeshShape(1, 4, 1), MeshShape(-1, -1, 1), MeshShape(0)):
        with pytest.raises(ValueError, match="devices|positive"):
            shape.resolve(8)


def test_a_batch_must_divide():
    mesh = make_mesh(MeshShape(1, 1, 1), jax.devices()[:1])
    check_batch(mesh, 6, 3)
    with pytest.raises(ValueError, match="a batch of 6 in 4 micro-batches .* a multiple of 4"):
        check_batch(mesh, 6, 4)
