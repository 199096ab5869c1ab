"""Training steps compile for TPUs that are not there: four chips of a v5e, under each way to lay out the weights."""

import dataclasses

import jax
import pytest

from benchmarks import compile_full_size
from gella_jax.training.experiment import GELLA
from grounding_jax.sharding.mesh import MeshShape, make_mesh
from grounding_jax.training.experiment import debugged, load_config
from gsva_jax.loading import find_checkpoint
from gsva_jax.training.experiment import GSVA
from tests.small_gella import small_config, small_tokenizer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chips() -> list[jax.Device]:
    """Four chips of a TPU v5e, described by its compiler."""
    return compile_full_size.chips("v5e:2x2")


@pytest.fixture(scope="module", params=["gsva", "gella"])
def training(request):
    """The recipe of a 7B with a small model and made-up pictures: options, task, and the shapes of an example."""
    system = {"gsva": GSVA, "gella": GELLA}[request.param]
    experiment = debugged(load_config(system, f"{request.param}_7b"))
    if request.param == "gsva":
        task = experiment.recipe.task(find_checkpoint("tiny"))
    else:
        task = experiment.recipe.task_for(small_config(), small_tokenizer())
    return dataclasses.replace(experiment.options, batch_size=4, accumulate=1), task, task.examples(seed=0)[0]


@pytest.mark.parametrize(
    "shape, collectives",
    [(MeshShape(4, 1, 1), {"all-reduce"}), (MeshShape(1, 2, 2), {"all-reduce", "all-gather"})],
    ids=["data", "fsdp x tensor"],
)
def test_a_training_step_compiles_for_a_pod(chips, training, shape, collectives):
    options, task, example = training
    compiled = compile_full_size.lower(task, options, make_mesh(shape, chips), example).lowered.compile()
    text = compiled.as_text()
    assert {name for name in ("all-reduce", "all-gather") if name in text} >= collectives
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes > 0  # the state is updated in place
    assert memory.argument_size_in_bytes < memory.peak_memory_in_bytes < 15.75 * 2**30
