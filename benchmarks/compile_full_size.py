"""Compiles a full-size training step for a TPU pod that is not there, and says whether it fits.

    python benchmarks/compile_full_size.py                       GELLA's table, which takes hours
    python benchmarks/compile_full_size.py --config gella_7b --topology v5e:8x8 --batch-size 64
    python benchmarks/compile_full_size.py --config gella_7b --topology v5e:8x8 --mesh.tensor 4 --llm full

Needs `pip install libtpu`; no TPU, no weights and no data: an example is one of the scenes in the package, whose arrays
are as large as those of any other. Besides --config and --topology it takes the options of the config, as `train` does.
It prints what the arguments of the step take on each chip, by kind, the temporaries, and the peak. A step that does not
fit is an error of the compiler.
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from gella_jax.config import GellaConfig
from gella_jax.training.experiment import GELLA
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.sharding.mesh import BATCH, check_batch, make_mesh
from grounding_jax.sharding.rules import REPLICATED, shardings
from grounding_jax.training.batches import BAD, EXAMPLE
from grounding_jax.training.experiment import Experiment, changed, load_config
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.state import State, init_state, partition, path_matcher, state_shardings
from grounding_jax.training.step import make_update
from grounding_jax.training.task import Task
from grounding_jax.weights.fresh import LORA_RANK
from gsva_jax.config import GsvaConfig
from gsva_jax.training.experiment import GSVA

GIB = 2**30
# The library must not look for a TPU, nor write a log.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# The system of a config, and the model that it starts from.
STARTS = {
    "gsva_7b": (GSVA, GsvaConfig.gsva_7b),
    "gsva_13b": (GSVA, GsvaConfig.gsva_13b),
    "gella_7b": (GELLA, GellaConfig.gella_7b),
    "gella_13b": (GELLA, GellaConfig.gella_13b),
}
# Those of the table. 64 rows on 64 chips, or the 16 of the paper, for which four chips share the work of a row.
CASES = (
    "--config gella_7b --topology v5e:4x4",
    "--config gella_7b --topology v5e:8x8 --batch-size 64",
    "--config gella_7b --topology v5e:8x8 --mesh.tensor 4",
    "--config gella_13b --topology v5e:4x4",
    "--config gella_13b --topology v5e:8x8 --batch-size 64",
    "--config gella_13b --topology v5e:8x8 --mesh.tensor 4",
    "--config gella_7b --topology v5e:4x4 --llm full",
    "--config gella_7b --topology v5e:8x8 --batch-size 64 --llm full",
)
KINDS = "trained", "optimizer", "frozen", "batch"
COLUMNS = "config", "topology", "data x fsdp x tensor", "rows", "T", "M", "S", *KINDS, "temporaries", "peak", "compiled"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compile, and for what.

    Attributes:
        config: experiment; its own options come behind.
        topology: chips, such as v5e:4x4 for 16 of them.
    """

    config: Literal["gsva_7b", "gsva_13b", "gella_7b", "gella_13b"] = "gella_7b"
    topology: str = "v5e:4x4"


class Step(NamedTuple):
    """The update of a step, for a mesh of devices that need not be there.

    Attributes:
        state, frozen, batch: its arguments, as shapes with shardings.
        lowered: the program, to be compiled.
    """

    state: State
    frozen: dict
    batch: dict
    lowered: jax.stages.Lowered


def chips(topology: str) -> list[jax.Device]:
    """The chips of a TPU, as its compiler describes them; ValueError or RuntimeError if it can't."""
    os.environ |= LIBTPU  # left set: the library reads it when it likes
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def lower(task: Task, options: TrainOptions, mesh: Mesh, example: dict[str, Any]) -> Step:
    """The step of `training.loop.train`, with frozen parameters in the precision of the computation.

    Args:
        task: the task.
        options: how it is trained; ValueError if its batch does not fit the mesh.
        mesh: whose devices may be `chips`.
        example: arrays or shapes of one row, as the task has them.
    """
    check_batch(mesh, options.batch_size, options.accumulate)
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    layout = shardings(mesh, task.sharding(), shapes)
    chosen, optimizer, whole = path_matcher(task.trainable), make_optimizer(options), NamedSharding(mesh, REPLICATED)
    (trained, frozen), (trained_layout, frozen_layout) = partition(shapes, chosen), partition(layout, chosen)
    frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(task.dtype)), frozen)
    state_layout = state_shardings(optimizer, trained, trained_layout, whole)
    rows = {EXAMPLE: np.int32(0), **{name: array for name, array in example.items() if name != BAD}}
    batch = {
        name: jax.ShapeDtypeStruct((options.batch_size, *array.shape), array.dtype) for name, array in rows.items()
    }
    arguments = (
        placed(jax.eval_shape(lambda params: init_state(optimizer, params), trained), state_layout),
        placed(frozen, frozen_layout),
        placed(batch, dict.fromkeys(batch, NamedSharding(mesh, BATCH))),
    )
    update = make_update(task, optimizer, options.accumulate, options.seed)
    return Step(*arguments, jax.jit(update, donate_argnums=0, out_shardings=(state_layout, whole)).lower(*arguments))


def placed(shapes, layout):
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, layout
    )


def per_chip(shapes) -> float:
    """GiB that arrays take on one chip."""
    leaves = jax.tree.leaves(shapes)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves) / GIB


def with_lora(model: GsvaConfig | GellaConfig) -> GsvaConfig | GellaConfig:
    """A model with low-rank updates: where it has none of its own, those that `import` adds."""
    llama = dataclasses.replace(model.llama, lora_rank=model.llama.lora_rank or LORA_RANK)
    return dataclasses.replace(model, llama=llama)


def full_size(config: str, experiment: Experiment) -> tuple[Task, dict[str, Any]]:
    """The task for a model of full size, and one of its examples; the words are those of the tiny GSVA."""
    _, start = STARTS[config]
    recipe, small = experiment.recipe, experiment.recipe.debugged()
    scenes = dict(data=small.data, families=small.families, validation="")
    tokenizer = tokenizers.load_tokenizer(GSVA.shipped / "tiny")
    cached = config.startswith("gsva") and recipe.cache_image_features
    if cached:
        scenes["cache_image_features"] = ""
    task = dataclasses.replace(recipe, **scenes).task_for(with_lora(start()), tokenizer)
    example = task.examples(0)[0]
    if cached:
        sam = task.model.sam
        grid = sam.image_size // sam.patch_size
        del example["sam_images"]
        example["image_features"] = jax.ShapeDtypeStruct((grid, grid, sam.prompt_width), jnp.bfloat16)
    return task, example


def report(options: Options, overrides: Sequence[str]) -> list[str]:
    """Compiles a step, and says what it takes: the values of `COLUMNS`."""
    experiment = changed(load_config(STARTS[options.config][0], options.config), overrides, "compile_full_size.py")
    task, example = full_size(options.config, experiment)
    mesh = make_mesh(experiment.options.mesh, chips(options.topology))
    begin = time.perf_counter()
    step = lower(task, experiment.options, mesh, example)
    memory = step.lowered.compile().memory_analysis()
    seconds = time.perf_counter() - begin
    kinds = step.state.params, step.state.opt_state, step.frozen, step.batch
    sizes = [*map(per_chip, kinds), memory.temp_size_in_bytes / GIB, memory.peak_memory_in_bytes / GIB]
    side = example["colormaps"] if "colormaps" in example else example["masks"]
    shapes = example["ids"].shape[0], example["seg_positions"].shape[0], side.shape[1]
    changes = " ".join([options.config, *overrides])
    axes = " x ".join(str(size) for size in mesh.devices.shape)
    about = [changes, options.topology, axes, experiment.options.batch_size, *shapes]
    return [*map(str, about), *(f"{size:.3f}" for size in sizes), f"{seconds:.0f} s"]


def main() -> None:
    """Prints the table: of all cases, or of the one that is asked for."""
    jax.config.update("jax_platforms", "cpu")  # for all that is computed here
    asked = [sys.argv[1:]] if sys.argv[1:] else [case.split() for case in CASES]
    parsed = [tyro.cli(Options, args=arguments, return_unknown_args=True, description=__doc__) for arguments in asked]
    for row in (COLUMNS, ["---"] * len(COLUMNS)):
        print(f"| {' | '.join(row)} |", flush=True)
    for options, overrides in parsed:
        print(f"| {' | '.join(report(options, overrides))} |", flush=True)


if __name__ == "__main__":
    main()
