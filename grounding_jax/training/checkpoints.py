"""Checkpoints of a training run: the trained state and what it belongs to, saved by Orbax in the background.

A checkpoint appears under its name only when it is complete, so an interrupted one is never taken for a whole one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from typing import Any

import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from grounding_jax.files import records
from grounding_jax.files.writing import write_json
from grounding_jax.sharding.hosts import is_first, wait_for_all
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import BROKEN, CHECKPOINTS, IDENTITY_FILE
from grounding_jax.training.state import State


def open_manager(run: epath.Path, options: TrainOptions, judged_by: str | None) -> ocp.CheckpointManager:
    """The checkpoints of a run folder.

    Args:
        run: the folder.
        options: say how many of the newest and of the best are kept.
        judged_by: the score that makes one the best, the highest; None if there are no scores.
    """

    def score(scores: dict[str, float]) -> float:
        return scores[judged_by]

    kept = [LatestN(options.keep_last)]
    if judged_by:
        kept.append(BestN(get_metric_fn=score, n=options.keep_best, keep_checkpoints_without_metrics=False))
    manager = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(kept), save_interval_steps=1, best_fn=score if judged_by else None
    )
    return ocp.CheckpointManager(run / CHECKPOINTS, options=manager)


def best_step(manager: ocp.CheckpointManager, run: epath.Path) -> int:
    """The step of the checkpoint with the best score among those that are kept.

    Raises:
        FileNotFoundError: none has a score.
    """
    step = manager.best_step()
    if step is None or not manager.metrics(step):
        raise FileNotFoundError(f"{run}: none of its checkpoints was judged by a validation; name a step instead")
    return step


def save(manager: ocp.CheckpointManager, step: int, state: State, scores: dict[str, float] | None) -> None:
    """Starts to save a state and its scores; the devices are free as soon as this returns.

    Raises:
        OSError: this or the one before could not be saved.
    """
    with _naming_the_newest(manager):
        if manager.latest_step() != step:
            manager.save(step, args=ocp.args.StandardSave(state), metrics=scores)


def check(manager: ocp.CheckpointManager) -> None:
    """Raises OSError if what is being saved in the background has failed."""
    with _naming_the_newest(manager):
        manager.check_for_errors()


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
        manager: of the run.
        run: the run folder.
        like: shapes, dtypes and shardings that the state is to have: the mesh may differ from the one that saved it.
        step: which one; the newest by default.

    Raises:
        ValueError: there are checkpoints, but all are damaged.
        FileNotFoundError: there is no checkpoint of that step.
    """
    if step is not None:
        if step not in manager.all_steps():
            there = ", ".join(map(str, sorted(manager.all_steps()))) or "none"
            raise FileNotFoundError(f"{run}: has no checkpoint of step {step}; those there are: {there}")
        return manager.restore(step, args=ocp.args.StandardRestore(like))
    broken = []
    while (step := manager.latest_step()) is not None:
        try:
            return manager.restore(step, args=ocp.args.StandardRestore(like))
        except Exception as error:  # what damage raises depends on the storage and on which file is damaged
            reason = " ".join(str(error).split())[:200]
            broken.append(step)
            _put_aside(run, step, reason)
            manager.reload()
    if broken:
        raise ValueError(
            f"{run / CHECKPOINTS}: none of the checkpoints {broken} can be read; they are in {run / BROKEN}"
        )
    return None


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


def claim(run: epath.Path, identity: dict) -> None:
    """Writes down what a run folder is a run of, or holds it against what is written there.

    Args:
        run: the run folder.
        identity: flat dict that JSON can keep; what may differ between two calls does not belong in it.

    Raises:
        ValueError: the folder holds another run; names what differs.
    """
    file = run / IDENTITY_FILE
    if not file.exists():
        if is_first():
            write_json(file, identity, indent=2)
        return
    before = read_identity(run)
    for key in sorted(before.keys() | identity.keys()):
        if before.get(key) != identity.get(key):
            raise ValueError(
                f"{run} holds a run with {key} = {before.get(key)}, this one has {identity.get(key)}: continue that "
                "one with its own options, or give this one another folder"
            )


def read_identity(run: epath.Path) -> dict:
    """What `claim` wrote.

    Raises:
        FileNotFoundError: the folder is no run folder.
    """
    file = run / IDENTITY_FILE
    if not file.exists():
        raise FileNotFoundError(f"{run}: is no run folder: it has no {IDENTITY_FILE}")
    return records.read(file, dict[str, Any])


def identity_of(options: object, exempt: tuple[str, ...]) -> dict:
    """The fields of a dataclass as a flat dict for `claim`, without those that two calls may change."""
    fields = dataclasses.asdict(options)
    return {
        name: records.decode(records.to_json(value), Any, name) for name, value in fields.items() if name not in exempt
    }
