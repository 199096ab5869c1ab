"""How a task is trained: everything that may be changed on the command line."""

from __future__ import annotations

import dataclasses
from typing import Literal

from grounding_jax.sharding.mesh import MeshShape


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How a task is trained.

    Attributes:
        steps: updates in all.
        batch_size: examples an update, over all devices and micro-batches.
        learning_rate: peak; reached after ``warmup_steps``.
        accumulate: micro-batches that a batch is cut into, one after the other: less memory, the same numbers.
        schedule: of the learning rate behind the warm-up: "linear", "cosine", or "deepspeed" (see `make_schedule`).
        warmup_steps: length of the linear warm-up.
        final_rate: the learning rate at the end, as a fraction of the peak.
        slow: regular expressions on paths that learn at ``slow_rate`` of the learning rate.
        slow_rate: see ``slow``.
        b1, b2: AdamW's decay rates.
        weight_decay: AdamW's weight decay.
        clip_norm: bound of the global gradient norm.
        seed: of parameters, data and dropout.
        mesh: how the devices are laid out.
        log_every: updates between lines of the log.
        save_every: updates between checkpoints.
        keep_last: newest checkpoints that are kept.
        keep_best: best checkpoints that are kept beside them, by the task's score on its validation examples.
        validation_examples: of each validation, which comes before each checkpoint; rounded up to whole batches.
        pictures: predictions that are drawn at each validation.
        profile: updates that are traced for TensorBoard's profiler.
        most_bad_steps: updates in a row without a finite loss and gradient, after which the training stops; each is
            skipped and counted.
        most_bad_records: share of damaged records among those read, beyond which the training stops.
        threads: threads that make examples.
    """

    steps: int
    batch_size: int
    learning_rate: float
    accumulate: int = 1
    schedule: Literal["linear", "cosine", "deepspeed"] = "cosine"
    warmup_steps: int = 100
    final_rate: float = 0.0
    slow: tuple[str, ...] = ()
    slow_rate: float = 0.5
    b1: float = 0.9
    b2: float = 0.98
    weight_decay: float = 0.0
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

    def is_due(self, step: int) -> bool:
        """Tells whether a checkpoint and a validation follow the update with this number, from 1."""
        return step % self.save_every == 0 or step == self.steps
