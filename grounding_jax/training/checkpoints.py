"""Checkpoints of a training run: the trained state and what it belongs to, saved by Orbax in the background.

A checkpoint appears under its name only when it is complete, so an interrupted one is never taken for a whole one.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from grounding_jax.sharding.hosts import is_first, wait_for_all
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import BROKEN, CHECKPOINTS
from grounding_jax.training.scores import Best, Scores
from grounding_jax.training.state import State


def open_manager(run: epath.Path, options: TrainOptions, best: Best) -> ocp.CheckpointManager:
    """The checkpoints of a run folder.

    Args:
        run: the folder.
        options: say how many of the newest are preserved.
        best: policy for the best ones; none are best as long as there are no scores.
    """
    policy = AnyPreservationPolicy([LatestN(options.keep_last), best])
    manager = ocp.CheckpointManagerOptions(preservation_policy=policy, save_interval_steps=1)
    return ocp.CheckpointManager(run / CHECKPOINTS, options=manager)


def best_step(run: epath.Path, metric: str) -> int:
    """The step of the checkpoint with the best score among those that are kept.

    Raises:
        FileNotFoundError: none has a score.
    """
    best = Best(Scores(run), metric).among(ocp.utils.checkpoint_steps(run / CHECKPOINTS))
    if not best:
        raise FileNotFoundError(f"{run}: none of its checkpoints has the score of a validation; name a step instead")
    return best[0]


def save(manager: ocp.CheckpointManager, step: int, state: State) -> None:
    """Starts to save a state; the devices are free as soon as this returns.

    Raises:
        OSError: this or the one before could not be saved.
    """
    with _naming_the_newest(manager):
        if manager.latest_step() != step:
            manager.save(step, args=ocp.args.StandardSave(state))


def check(manager: ocp.CheckpointManager) -> None:
    """Raises OSError if what is being saved in the background has failed."""
    with _naming_the_newest(manager):
        manager.check_for_errors()


@contextlib.contextmanager
def completing(manager: ocp.CheckpointManager) -> Iterator[None]:
    """A context for the training: whatever ends it, what is being saved meanwhile is completed first.

    Raises:
        OSError: the training went well, but its last checkpoint could not be saved.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(Exception):  # the error that ended it is the one to tell of
            manager.wait_until_finished()
        raise
    finish(manager)
    manager.close()


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits for what is being saved; raises OSError if it could not be."""
    with _naming_the_newest(manager):
        manager.wait_until_finished()


@contextlib.contextmanager
def _naming_the_newest(manager: ocp.CheckpointManager) -> Iterator[None]:
    """Says in one line what could not be saved, and what there is."""
    try:
        yield
    except Exception as error:  # what a full disk raises depends on the storage
        reason = " ".join(str(error).split())
        manager.reload()
        newest = manager.latest_step()
        left = "there is no complete one yet" if newest is None else f"the newest complete one is of step {newest}"
        raise OSError(
            f"{manager.directory}: a checkpoint could not be saved; {left}. Make room and call the same command again: "
            f"it goes on from there. The reason: {reason}"
        ) from error


def restore(manager: ocp.CheckpointManager, run: epath.Path, like: State, step: int | None = None) -> State | None:
    """The state of a step, or the newest one that can be read, None if there is none.

    A damaged checkpoint is reported, put aside, and the one before is taken.

    Args:
        manager: checkpoint manager of the run.
        run: the run folder.
        like: shapes, dtypes and shardings that the state is to have: the mesh may differ from the one that saved it.
        step: step of the checkpoint; the newest by default.

    Raises:
        ValueError: there are checkpoints, but all are damaged, or that of the step is.
        FileNotFoundError: there is no checkpoint of that step.
    """
    if step is not None:
        if step not in manager.all_steps():
            there = ", ".join(map(str, sorted(manager.all_steps()))) or "none"
            raise FileNotFoundError(f"{run}: has no checkpoint of step {step}; those there are: {there}")
        try:
            return manager.restore(step, args=ocp.args.StandardRestore(like))
        except Exception as error:  # see below
            raise ValueError(f"{run}: the checkpoint of step {step} can't be read: {_reason(error)}") from error
    broken = []
    while (step := manager.latest_step()) is not None:
        try:
            return manager.restore(step, args=ocp.args.StandardRestore(like))
        except Exception as error:  # what damage raises depends on the storage and on which file is damaged
            broken.append(step)
            _put_aside(run, step, _reason(error))
            manager.reload()
    if broken:
        raise ValueError(
            f"{run / CHECKPOINTS}: none of the checkpoints {broken} can be read; they are in {run / BROKEN}"
        )
    return None


def _reason(error: Exception) -> str:
    """What the storage says, on one line; it may be pages."""
    return " ".join(str(error).split())[:200]


def _put_aside(run: epath.Path, step: int, reason: str) -> None:
    print(
        f"\nWARNING: checkpoint {step} of {run} is damaged ({reason}); going back to the one before\n", file=sys.stderr
    )
    wait_for_all(f"damaged checkpoint {step}")
    if is_first():
        (run / BROKEN).mkdir(parents=True, exist_ok=True)
        target = run / BROKEN / str(step)
        if target.exists():
            target.rmtree()
        (run / CHECKPOINTS / str(step)).rename(target)
    wait_for_all(f"damaged checkpoint {step} put aside")
