"""The training loop: a task, its options and a run folder in; a trained parameter tree out. Resumes by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding

from grounding_jax.sharding.mesh import check_batch, make_mesh
from grounding_jax.sharding.rules import REPLICATED, shardings
from grounding_jax.training import checkpoints, preemption
from grounding_jax.training.batches import EXAMPLE, batches
from grounding_jax.training.finite import FiniteWatch
from grounding_jax.training.log import Log
from grounding_jax.training.optimizer import make_optimizer
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import PROFILE, absolute, claim, identity_of
from grounding_jax.training.scores import Best, Scores
from grounding_jax.training.state import State, combine, init_state, partition, path_matcher, state_shardings
from grounding_jax.training.step import make_update
from grounding_jax.training.task import Task
from grounding_jax.training.trace import tracing
from grounding_jax.training.validation import make_validation

# Two calls of one run may differ in these.
MAY_CHANGE = (
    "mesh",
    "accumulate",
    "log_every",
    "save_every",
    "keep_last",
    "keep_best",
    "validation_examples",
    "pictures",
    "profile",
    "most_bad_steps",
    "most_bad_records",
    "threads",
)


class Run(NamedTuple):
    """A run that is ready to go on.

    Attributes:
        mesh: the devices.
        optimizer: made of the options.
        shardings: shardings of the state.
        state: the newest saved one, or a fresh one.
        frozen: parameters that are not trained.
        manager: manager of the checkpoints.
        scores: scores of the checkpoints.
    """

    mesh: Mesh
    optimizer: optax.GradientTransformation
    shardings: State
    state: State
    frozen: dict
    manager: ocp.CheckpointManager
    scores: Scores


def open_run(
    task: Task, options: TrainOptions, run: epath.Path, init: Mapping | None = None, step: int | None = None
) -> Run:
    """Lays everything out on the mesh and restores the newest checkpoint, or that of a step; see `train`.

    Raises:
        ValueError: the parameters do not fit the mesh, or no checkpoint can be read.
        FileNotFoundError: there is no checkpoint of that step.
    """
    mesh = make_mesh(options.mesh)
    trained, frozen = partition(place(task, mesh, options.seed, init or {}), path_matcher(task.trainable))
    trained = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), trained)
    optimizer = make_optimizer(options)
    layout = jax.tree.map(lambda leaf: leaf.sharding, trained)
    layout = state_shardings(optimizer, trained, layout, NamedSharding(mesh, REPLICATED))
    state = jax.jit(init_state, static_argnums=0, out_shardings=layout)(optimizer, trained)
    scores = Scores(run)
    manager = checkpoints.open_manager(run, options, Best(scores, task.best_metric, options.keep_best))
    state = checkpoints.restore(manager, run, state, step) or state
    return Run(mesh, optimizer, layout, state, frozen, manager, scores)


def train(
    task: Task,
    options: TrainOptions,
    run: epath.PathLike,
    init: Mapping | None = None,
    origin: Mapping | None = None,
) -> dict:
    """Trains a task, continuing from the newest checkpoint of its run folder if there is one.

    Args:
        task: the task to train.
        options: how.
        run: folder of the run: ``checkpoints``, ``log.jsonl``, ``tensorboard``, ``bad_steps.jsonl``, ``run.json``.
        init: parameters, as nested dicts of arrays, laid over those of ``task.init``: where the run starts from.
        origin: facts that tell this run from others besides the options, such as where ``init`` comes from.

    Returns:
        The whole parameter tree after the last step, trained and frozen, as sharded arrays.

    Raises:
        ValueError: the batch or the parameters do not fit the mesh, the folder holds another run, or the loss was not
            finite too often in a row.
        OSError: a checkpoint could not be saved.
        preemption.Preempted: the run was asked to stop and has saved.
    """
    check_batch(make_mesh(options.mesh), options.batch_size, options.accumulate)
    run = absolute(run)
    run.mkdir(parents=True, exist_ok=True)
    claim(run, identity(options, origin or {}))
    opened = open_run(task, options, run, init)
    start = int(opened.state.step)
    task.on_start(combine(opened.frozen, opened.state.params), opened.mesh)
    with (
        checkpoints.completing(opened.manager),
        Log(run, options.steps, start, options.batch_size, task.work()) as log,
        preemption.watch(start) as must_stop,
        tracing(run / PROFILE, start, options.profile) as trace,
    ):
        return _updates(task, options, opened, start, FiniteWatch(run, options.most_bad_steps), log, must_stop, trace)


def _updates(
    task: Task,
    options: TrainOptions,
    opened: Run,
    start: int,
    finite: FiniteWatch,
    log: Log,
    must_stop: Callable[[int], bool],
    trace: Callable[[int], None],
) -> dict:
    """The updates behind ``start`` and what comes after each; the whole parameter tree in the end."""
    mesh, optimizer, layout, state, frozen, manager, scores = opened
    update = make_update(task, optimizer, options.accumulate, options.seed)
    update = jax.jit(update, donate_argnums=0, out_shardings=(layout, NamedSharding(mesh, REPLICATED)))
    validate = make_validation(task, options, mesh)

    def keep_scores(step: int) -> None:
        if validate:
            scores.add(step, log.validated(step, validate(combine(frozen, state.params))))

    if start and options.is_due(start) and scores.of(start) is None:
        keep_scores(start)  # it was stopped between a save and its validation
    training = batches(task.examples(options.seed), options.batch_size, range(start, options.steps), mesh, options)
    for step, batch in enumerate(log.waiting(training), start + 1):
        trace(step)
        with jax.transfer_guard("disallow"):
            state, scalars = update(state, frozen, batch)
        finite.see(step, scalars, batch[EXAMPLE])
        last = step == options.steps
        if step % options.log_every == 0 or last:
            log.write(step, scalars)
            checkpoints.check(manager)
        stop = not last and must_stop(step)
        if stop or options.is_due(step):
            checkpoints.save(manager, step, state)
        if stop:
            checkpoints.finish(manager)
            raise preemption.Preempted(step)  # who sends SIGTERM does not wait for a validation
        if options.is_due(step):
            keep_scores(step)
    finite.check()
    return combine(frozen, state.params)


def identity(options: TrainOptions, origin: Mapping) -> dict:
    """What tells a run from others, for `claim`."""
    return {**identity_of(options, MAY_CHANGE), **origin}


def place(task: Task, mesh: Mesh, seed: int, init: Mapping) -> dict:
    """The whole parameter tree on the mesh: arrays that are given, and random ones where none is.

    Each array goes to its devices by itself, so that a host needs memory for the largest one only, and nothing random
    is made for what is given. Names that only ``init`` has (helpers of earlier lessons) are whole on every device.
    """
    given = traverse_util.flatten_dict(dict(init), sep="/")
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    layout = traverse_util.flatten_dict(shardings(mesh, task.sharding(), shapes), sep="/")
    missing = [path for path in traverse_util.flatten_dict(shapes, sep="/") if path not in given]

    def fresh(key: jax.Array) -> dict:
        flat = traverse_util.flatten_dict(task.init(key), sep="/")
        return {path: flat[path] for path in missing}

    made = jax.jit(fresh, out_shardings={path: layout[path] for path in missing})(jax.random.key(seed))
    whole = NamedSharding(mesh, REPLICATED)
    loaded = {path: spread(array, layout.get(path, whole)) for path, array in given.items()}
    return traverse_util.unflatten_dict({**made, **loaded}, sep="/")


def spread(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """An array that every process can read, laid out over the devices of all of them."""
    return jax.make_array_from_callback(array.shape, sharding, lambda index: np.asarray(array[index]))
