"""How much faster a training step is where SAM's features come from files (`cache_image_features`).

    python benchmarks/cached_features.py      prints the second and third table of data_loading.md, in 2 minutes

A model of 130 million parameters, whose parts are in the proportions of GSVA-7B, makes the same steps of the real
training on a CPU in float32, with SAM's encoder inside and with the features that the training itself wrote before.
The two take turns, so that both have the same neighbours on the machine, and processor time is what is compared. For
the published sizes the ratio is counted, not measured: products of matrices, and again what the backward pass makes
anew.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported

import jax
import numpy as np
from data_loading import DATASET, vocabulary, write_dataset

from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.sam import SamConfig
from grounding_jax.planning.flops import llama_flops
from grounding_jax.sharding.mesh import MeshShape, make_mesh
from grounding_jax.training.batches import batches
from grounding_jax.training.loop import place
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.state import init_state, partition, path_matcher
from grounding_jax.training.step import make_update
from gsva_jax.config import GsvaConfig
from gsva_jax.data.mixture import Family
from gsva_jax.flops import training_flops
from gsva_jax.training.recipe import GsvaRecipe
from gsva_jax.training.task import GsvaTask

TURNS = 6  # timed steps of each
OPTIONS = TrainOptions(TURNS + 1, 2, 1e-4, warmup_steps=1, mesh=MeshShape(1, 1, 1))
LENGTH, TARGETS = 512, 5


def middle_size(vocab_size: int) -> GsvaConfig:
    """Parts in the proportions of GSVA-7B."""
    llama = LlamaConfig(vocab_size, width=1024, hidden=2752, layers=8, heads=16, kv_heads=16, lora_rank=8)
    clip = ClipConfig(image_size=224, patch_size=14, width=192, hidden=768, layers=6, heads=4)
    sam = SamConfig(width=384, layers=12, heads=6, global_blocks=(2, 5, 8, 11), image_size=448, prompt_width=64)
    return GsvaConfig(llama, clip, sam)


def stepper(task: GsvaTask) -> Callable[[], tuple[float, float]]:
    """A function that makes one more step and gives its processor seconds and its loss."""
    mesh = make_mesh(OPTIONS.mesh)
    params = place(task, mesh, 0, {})
    task.on_start(params, mesh)
    trained, frozen = partition(params, path_matcher(task.trainable))
    optimizer = make_optimizer(OPTIONS)
    update = jax.jit(make_update(task, optimizer), donate_argnums=0)
    ready = list(batches(task.examples(0), OPTIONS.batch_size, range(OPTIONS.steps), mesh, OPTIONS))
    state, made = init_state(optimizer, trained), iter(ready)

    def step() -> tuple[float, float]:
        nonlocal state
        begin, batch = time.process_time(), next(made)
        state, scalars = jax.block_until_ready(update(state, frozen, batch))
        return time.process_time() - begin, float(scalars["loss"])

    return step


def counted(config: GsvaConfig, length: int) -> tuple[float, float]:
    """How many times the arithmetic of a step with features from files one without them has.

    Of useful products alone, and with the language model's blocks computed again in the backward pass.
    """
    inside, kept = (training_flops(config, length, TARGETS, cached) for cached in (False, True))
    again = llama_flops(config.llama, length)
    return inside / kept, (inside + again) / (kept + again)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_dataset(root, OPTIONS.batch_size * OPTIONS.steps, np.random.default_rng(0))
        tokenizer = vocabulary("llava_v1")
        config = middle_size(tokenizer.vocab_size)
        recipe = GsvaRecipe(
            data=str(root),
            families=(Family(1, (DATASET,)),),
            length=LENGTH,
            max_targets=TARGETS,
            canvas=640,
            lora_dropout=0.0,
            dtype="float32",
        )
        kept = dataclasses.replace(recipe, cache_image_features=str(Path(folder) / "features"))
        steps = [stepper(one.task_for(config, tokenizer, "benchmark")) for one in (recipe, kept)]
        made = [[step() for step in steps] for _ in range(OPTIONS.steps)]
    seconds = [statistics.median(turn[k][0] for turn in made[1:]) for k in (0, 1)]
    distance = max(abs(inside[1] / kept[1] - 1) for inside, kept in made)
    print("| a step of the middle size | processor seconds |\n|---|---:|")
    print(f"| SAM's encoder inside | {seconds[0]:.2f} |\n| features from files | {seconds[1]:.2f} |")
    print(f"\nSpeed-up {seconds[0] / seconds[1]:.2f}. Losses of {len(made)} steps differ by {distance:.1e} at most.\n")
    print("| size | tokens | arithmetic inside / from files | with remat |\n|---|---:|---:|---:|")
    sizes = {"middle": (config, LENGTH)}
    sizes |= {"GSVA-7B": (GsvaConfig.gsva_7b(), 1024), "GSVA-13B": (GsvaConfig.gsva_13b(), 1024)}
    for name, (size, length) in sizes.items():
        useful, again = counted(size, length)
        print(f"| {name} | {length} | {useful:.2f} x | {again:.2f} x |")


if __name__ == "__main__":
    main()
