"""The training loop: a task, its options and a run folder in; a trained parameter tree out. Resumes by itself."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterator
from typing import Protocol

import grain
import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from etils import epath
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grounding_jax.training.state import State, combine, partition, path_matcher


class Task(Protocol):
    """What is trained, on what, and how well it does."""

    trainable: tuple[str, ...]
    """Regular expressions on parameter paths: what is trained; the rest is frozen."""

    kept: tuple[str, ...]
    """Top-level names of the parameters that the result keeps."""

    def init(self, key: jax.Array) -> dict:
        """The whole parameter tree at step 0."""

    def examples(self, seed: int) -> grain.MapDataset:
        """Examples as dicts of arrays of fixed shapes; number i is a function of (seed, i)."""

    def loss(self, params: dict, batch: dict, step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The scalar to be minimised, and scalars to be logged."""


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a task is trained.

    Attributes:
        steps: updates in all.
        batch_size: examples an update.
        learning_rate: peak; reached after ``warmup_steps``, then a cosine to ``final_rate`` of the peak.
        warmup_steps: length of the linear warm-up.
        final_rate: the learning rate at the end, as a fraction of the peak.
        slow: regular expressions on paths that learn at ``slow_rate`` of the learning rate.
        slow_rate: see ``slow``.
        b1, b2: AdamW's decay rates.
        weight_decay: AdamW's weight decay.
        clip_norm: bound of the global gradient norm.
        seed: of parameters and data.
        log_every: updates between lines of the log.
        save_every: updates between checkpoints.
        threads: threads that make examples.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    final_rate: float = 0.0
    slow: tuple[str, ...] = ()
    slow_rate: float = 0.5
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    seed: int = 0
    log_every: int = 10
    save_every: int = 100
    threads: int = 2


def make_optimizer(options: TrainOptions) -> optax.GradientTransformation:
    """AdamW behind a global-norm clip, with warm-up and cosine, and a slower rate for some parameters."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        options.learning_rate,
        options.warmup_steps,
        options.steps,
        options.learning_rate * options.final_rate,
    )
    is_slow = path_matcher(options.slow)

    def rates(params: dict) -> dict:
        return jax.tree.map_with_path(
            lambda path, _: options.slow_rate if is_slow("/".join(key.key for key in path)) else 1.0, params
        )

    slow_down = optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, rates(updates)))
    adamw = optax.adamw(schedule, options.b1, options.b2, weight_decay=options.weight_decay)
    return optax.chain(optax.clip_by_global_norm(options.clip_norm), adamw, slow_down)


def make_step(task: Task, optimizer: optax.GradientTransformation):
    """The jitted update ``(state, frozen, batch) -> (state, scalars)``; the state is donated."""

    def update(state: State, frozen: dict, batch: dict) -> tuple[State, dict[str, jax.Array]]:
        def objective(params):
            return task.loss(combine(frozen, params), batch, state.step)

        (loss, scalars), gradient = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        norms = {"grad_norm": optax.tree.norm(gradient), "update_norm": optax.tree.norm(updates)}
        return State(state.step + 1, params, opt_state), {"loss": loss, **scalars, **norms}

    return jax.jit(update, donate_argnums=0)


def batches(task: Task, options: TrainOptions, start: int) -> Iterator[dict]:
    """Batches from step ``start`` on. The position in the data is the step, so nothing but the step is stored."""
    examples = task.examples(options.seed)[start * options.batch_size : options.steps * options.batch_size]
    read = grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=4 * options.batch_size)
    return iter(examples.batch(options.batch_size).to_iter_dataset(read))


def train(task: Task, options: TrainOptions, run: epath.PathLike, init: dict | None = None) -> dict:
    """Trains a task, continuing from the newest checkpoint of its run folder if there is one.

    Args:
        task: what is trained.
        options: how.
        run: folder of the run; checkpoints go to ``run/checkpoints``, scalars to ``run/log.jsonl``.
        init: parameters laid over those of ``task.init``: where the run starts from.

    Returns:
        The whole parameter tree after the last step, trained and frozen.
    """
    run = epath.Path(run if "://" in str(run) else os.path.abspath(run))  # Orbax refuses relative paths
    run.mkdir(parents=True, exist_ok=True)
    params = combine(jax.jit(task.init)(jax.random.key(options.seed)), init or {})
    trained, frozen = partition(params, path_matcher(task.trainable))
    optimizer = make_optimizer(options)
    state = State(jnp.zeros((), jnp.int32), trained, jax.jit(optimizer.init)(trained))
    manager = ocp.CheckpointManager(
        run / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=2, save_interval_steps=1)
    )
    if manager.latest_step() is not None:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state))
    start = int(state.step)
    step_fn = make_step(task, optimizer)
    columns = (
        TextColumn(run.name),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns) as progress, (run / "log.jsonl").open("a") as log:
        bar = progress.add_task("compiling", total=options.steps, completed=start)
        clock = time.perf_counter()
        for step, batch in enumerate(batches(task, options, start), start + 1):
            state, scalars = step_fn(state, frozen, batch)
            if step % options.log_every == 0 or step == options.steps:
                values = {name: round(float(value), 5) for name, value in scalars.items()}
                now = time.perf_counter()
                rate = options.log_every * options.batch_size / (now - clock)
                clock = now
                log.write(json.dumps({"step": step, "examples_per_second": round(rate, 1), **values}) + "\n")
                log.flush()
                progress.update(bar, completed=step, description=f"loss {values['loss']:.3f}  {rate:.1f}/s")
            if step % options.save_every == 0 or step == options.steps:
                manager.save(step, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()
    manager.close()
    return combine(frozen, state.params)
