"""How a task is trained: everything that may be changed on the command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from grounding_jax.sharding.mesh import MeshShape

LARGEST = 2**31 - 1  # of all counts and rates


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a task is trained; ValueError if a number can't be.

    Attributes:
        steps: number of updates of the whole training.
        batch_size: examples of an update, over all devices and micro-batches together.
        learning_rate: peak of AdamW's learning rate, reached after the warm-up.
        accumulate: micro-batches that a batch is computed in, one after the other: less memory, the same numbers.
        schedule: course of the learning rate after the warm-up: "linear" and "cosine" fall from the peak to the end,
            "deepspeed" is linear with the first two updates as the release's library makes them, "steps" falls to a
            tenth at each of --drops.
        drops: for the schedule "steps": shares of the updates after which the learning rate falls.
        warmup_steps: updates in which the learning rate rises from 0 to its peak.
        final_rate: learning rate of the last update as a fraction of the peak.
        slow: regular expressions on parameter paths: these parameters learn at a fraction of the learning rate.
        slow_rate: fraction of the learning rate for the parameters that --slow names.
        b1: AdamW's decay rate of the mean of the gradient.
        b2: AdamW's decay rate of the mean of its square.
        weight_decay: AdamW's weight decay.
        no_decay: regular expressions on parameter paths: these parameters do not decay.
        clip_norm: largest global norm of the gradient; a larger gradient is scaled down to it.
        seed: number that parameters, order of the data and dropout are drawn from.
        mesh: layout of the devices; one of the three sizes may be -1, which takes all that are left.
        log_every: updates between two lines of the log.
        save_every: updates between two checkpoints; a validation follows each.
        keep_last: number of newest checkpoints that are kept.
        keep_best: number of checkpoints with the best validation scores that are kept beside the newest.
        validation_examples: examples of a validation, rounded up to whole batches.
        pictures: predictions that are drawn at each validation.
        profile: updates that are traced for TensorBoard's profiler; 0: none.
        most_bad_steps: updates in a row without a finite loss and gradient after which the training stops; each of
            them is skipped and counted.
        most_bad_records: largest share of damaged records; the training stops when more of those read are damaged.
        threads: threads of each host that make examples.
    """

    steps: int
    batch_size: int
    learning_rate: float
    accumulate: int = 1
    schedule: Literal["linear", "cosine", "deepspeed", "steps"] = "cosine"
    drops: tuple[float, ...] = ()
    warmup_steps: int = 100
    final_rate: float = 0.0
    slow: tuple[str, ...] = ()
    slow_rate: float = 0.5
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.0
    no_decay: tuple[str, ...] = ()
    clip_norm: float = 1.0
    seed: int = 0
    mesh: MeshShape = MeshShape()
    log_every: int = 10
    save_every: int = 100
    keep_last: int = 2
    keep_best: int = 1
    validation_examples: int = 256
    pictures: int = 4
    profile: int = 0
    most_bad_steps: int = 10
    most_bad_records: float = 0.01
    threads: int = 2

    def __post_init__(self):
        check_numbers(self, 1, LARGEST, "steps", "batch_size", "accumulate", "log_every", "save_every", "keep_last")
        check_numbers(self, 1, LARGEST, "most_bad_steps")
        check_numbers(self, 0, LARGEST, "warmup_steps", "seed", "keep_best", "validation_examples", "pictures")
        check_numbers(self, 0, LARGEST, "profile", "threads", "learning_rate", "weight_decay")
        check_numbers(self, 0, 1, "final_rate", "slow_rate", "most_bad_records", "drops")
        check_numbers(self, 0, 1 - 1e-9, "b1", "b2")  # of 1, a mean never comes
        check_numbers(self, 1e-9, LARGEST, "clip_norm")

    def is_due(self, step: int) -> bool:
        """Tells whether a checkpoint and a validation follow the update with this number, from 1."""
        return step % self.save_every == 0 or step == self.steps


def check_numbers(options: object, least: float, most: float, *names: str) -> None:
    """Raises ValueError if a field of a dataclass is not a number, or a tuple of such, from ``least`` to ``most``.

    Names the first that is not.
    """
    for name in names:
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            if not least <= number <= most:  # nor is NaN
                raise ValueError(f"{name} is {number}, should be a number from {least} to {most}")
