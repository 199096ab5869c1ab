"""Compiles a full-size GSVA-7B training step for a TPU pod that is not there, and says whether it fits.

    python benchmarks/compile_7b.py                                    v5e:4x4, sequences of 1024, 5 targets
    python benchmarks/compile_7b.py --topology v5e:8x8 --tensor 4 --batch 64

Needs `pip install libtpu`; no TPU and no weights. With SAM's encoder inside the step, and with its features cached, it
prints what the arguments of the step take on each chip, by kind, the temporaries, and the peak. A step that does not
fit is an error of the compiler.
"""

from __future__ import annotations

import argparse
import math
import os
import time

# Before jax is imported: libtpu must not look for a TPU, and everything that runs, runs on the CPU.
os.environ |= {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from grounding_jax.sharding.mesh import BATCH, MeshShape, check_batch, make_mesh
from grounding_jax.sharding.rules import REPLICATED, shardings
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.state import init_state, partition, path_matcher, state_shardings
from grounding_jax.training.step import make_update
from gsva_jax.config import GsvaConfig
from gsva_jax.training.experiment import load_config
from gsva_jax.training.task import GsvaTask

GIB = 2**30


def batch_shapes(config: GsvaConfig, batch: int, length: int, targets: int, canvas: int, cached: bool) -> dict:
    """What `mixture.Mixture` gives, as shapes."""
    S, h = config.sam.image_size, config.clip.image_size
    grid = config.sam.image_size // config.sam.patch_size
    features = {"image_features": ((batch, grid, grid, config.sam.prompt_width), jnp.bfloat16)}
    pictures = {"sam_images": ((batch, S, S, 3), jnp.uint8)}
    row = {name: ((batch, length), jnp.int32) for name in ("ids", "positions", "branch", "labels")}
    arrays = {
        **row,
        "seg_positions": ((batch, targets), jnp.int32),
        "target_valid": ((batch, targets), jnp.bool_),
        "target_rejected": ((batch, targets), jnp.bool_),
        "clip_images": ((batch, h, h, 3), jnp.uint8),
        **(features if cached else pictures),
        "resized": ((batch, 2), jnp.int32),
        "original": ((batch, 2), jnp.int32),
        "masks": ((batch, targets, canvas, canvas // 8), jnp.uint8),
        "example": ((batch,), jnp.int32),
    }
    return {name: jax.ShapeDtypeStruct(*array) for name, array in arrays.items()}


def placed(shapes, layout):
    """Shapes with their shardings."""
    return jax.tree.map(
        lambda shape, sharding: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding), shapes, layout
    )


def per_chip(shapes) -> float:
    """GiB that arrays take on one chip."""
    leaves = jax.tree.leaves(shapes)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves) / GIB


def arguments(task: GsvaTask, options, mesh: Mesh, batch: dict) -> tuple:
    """State, frozen parameters and batch of a step as shapes with shardings, and the state's shardings."""
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    layout = shardings(mesh, task.sharding(), shapes)
    chosen = path_matcher(task.trainable)
    (trained, frozen), (trained_layout, frozen_layout) = partition(shapes, chosen), partition(layout, chosen)
    frozen = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), frozen)
    optimizer, whole = make_optimizer(options), NamedSharding(mesh, REPLICATED)
    state_layout = state_shardings(optimizer, trained, trained_layout, whole)
    state = placed(jax.eval_shape(lambda params: init_state(optimizer, params), trained), state_layout)
    batch = placed(batch, jax.tree.map(lambda _: NamedSharding(mesh, BATCH), batch))
    return state, placed(frozen, frozen_layout), batch, state_layout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", default="gsva_7b")
    parser.add_argument("--topology", default="v5e:4x4")
    parser.add_argument("--tensor", type=int, default=1, help="devices that share the work inside a layer")
    parser.add_argument("--batch", type=int, default=16, help="rows of one micro-batch, over all chips")
    parser.add_argument("--accumulate", type=int, default=1)
    asked = parser.parse_args()
    for cached in (False, True):
        report(asked, cached)


def report(asked: argparse.Namespace, cached: bool) -> None:
    """Compiles a step with SAM's encoder inside, or with its features from a cache, and prints what it takes."""
    experiment = load_config(asked.config)
    size = {"gsva_7b": GsvaConfig.gsva_7b, "gsva_13b": GsvaConfig.gsva_13b}[asked.config]()
    recipe, options = experiment.recipe, experiment.options
    task = recipe.task_for(size, None)
    topology = topologies.get_topology_desc(platform="tpu", topology_name=asked.topology)
    mesh = make_mesh(MeshShape(1, -1, asked.tensor), topology.devices)
    rows = asked.batch * asked.accumulate
    check_batch(mesh, rows, asked.accumulate)
    batch = batch_shapes(task.model, rows, recipe.length, recipe.max_targets, recipe.canvas, cached)
    state, frozen, batch, layout = arguments(task, options, mesh, batch)
    encoder = "SAM's features cached" if cached else "SAM's encoder inside"
    print(f"{asked.config} on {asked.topology}, mesh {dict(mesh.shape)}, micro-batches of {asked.batch}, {encoder}")
    kinds = {
        "trained parameters": state.params,
        "optimizer": state.opt_state,
        "frozen parameters": frozen,
        "batch": batch,
    }
    for kind, shapes in kinds.items():
        print(f"  {kind:20} {per_chip(shapes):7.3f} GiB a chip")
    update = make_update(task, make_optimizer(options), asked.accumulate)
    begin = time.perf_counter()
    lowered = jax.jit(update, donate_argnums=0, out_shardings=(layout, NamedSharding(mesh, REPLICATED))).lower(
        state, frozen, batch
    )
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    print(f"  {'temporaries':12} {memory.temp_size_in_bytes / GIB:7.3f} GiB a chip")
    print(f"  {'peak':12} {memory.peak_memory_in_bytes / GIB:7.3f} GiB a chip")
    print(f"compiled in {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
