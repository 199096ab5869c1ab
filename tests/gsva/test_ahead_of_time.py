"""A training step compiles for TPUs that are not there: four chips of a v5e, under each way to lay out the weights."""

import os

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from grounding_jax.sharding.mesh import BATCH, MeshShape, make_mesh
from grounding_jax.sharding.rules import REPLICATED, shardings
from grounding_jax.training.experiment import debugged
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.state import init_state, partition, path_matcher, state_shardings
from grounding_jax.training.step import make_update
from gsva_jax.loading import find_checkpoint
from gsva_jax.training.experiment import load_config

pytestmark = pytest.mark.slow

# libtpu must not look for a TPU, nor write a log.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@pytest.fixture(scope="module")
def chips() -> list[jax.Device]:
    """Four chips of a TPU v5e, described by its compiler."""
    os.environ |= LIBTPU  # left set: the library reads it when it likes
    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


@pytest.fixture(scope="module")
def experiment():
    """The recipe of GSVA-7B with the tiny model and made-up pictures."""
    return debugged(load_config("gsva_7b"))


@pytest.fixture(scope="module")
def task(experiment):
    return experiment.recipe.task(find_checkpoint("tiny"))


def placed(shapes, layout):
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, layout
    )


def lower(task, options, mesh: Mesh):
    """The update of a step on a mesh, for four rows."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    layout = shardings(mesh, task.sharding(), shapes)
    chosen, optimizer, whole = path_matcher(task.trainable), make_optimizer(options), NamedSharding(mesh, REPLICATED)
    (trained, frozen), (trained_layout, frozen_layout) = partition(shapes, chosen), partition(layout, chosen)
    state_layout = state_shardings(optimizer, trained, trained_layout, whole)
    state = placed(jax.eval_shape(lambda params: init_state(optimizer, params), trained), state_layout)
    example = {**task.examples(seed=0)[0], "example": np.int32(0)}
    batch = {name: np.stack([array] * 4) for name, array in example.items()}
    batch = placed(batch, jax.tree.map(lambda _: NamedSharding(mesh, BATCH), batch))
    update = jax.jit(make_update(task, optimizer, 1), donate_argnums=0, out_shardings=(state_layout, whole))
    return update.lower(state, placed(frozen, frozen_layout), batch)


@pytest.mark.parametrize(
    "shape, collectives",
    [(MeshShape(4, 1, 1), {"all-reduce"}), (MeshShape(1, 2, 2), {"all-reduce", "all-gather"})],
    ids=["data", "fsdp x tensor"],
)
def test_a_training_step_compiles_for_a_pod(chips, task, experiment, shape, collectives):
    compiled = lower(task, experiment.options, make_mesh(shape, chips)).compile()
    text = compiled.as_text()
    assert {name for name in ("all-reduce", "all-gather") if name in text} >= collectives
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes > 0  # the state is updated in place
    assert memory.argument_size_in_bytes < memory.peak_memory_in_bytes < 15.75 * 2**30
