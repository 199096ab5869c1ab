"""How a run does on examples that it does not learn from: scores for the log and the best checkpoint, and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from grounding_jax.sharding.hosts import is_first
from grounding_jax.sharding.mesh import BATCH
from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.training.batches import EXAMPLE, batches
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.task import Task

log = logging.getLogger(__name__)


class Validated(NamedTuple):
    """What a validation found.

    Attributes:
        scores: means over all examples, by name.
        pictures: uint8 ``[H, W, 3]``, in the first process.
    """

    scores: dict[str, float]
    pictures: list[np.ndarray]


Validate = Callable[[dict], Validated]


def make_validation(task: Task, options: TrainOptions, mesh: Mesh) -> Validate | None:
    """The function that validates parameters, or None for a task that has nothing to validate on.

    Args:
        task: the task to train.
        options: options with the number of examples, in batches as large as the training's micro-batches, and of
            pictures.
        mesh: the devices.
    """
    examples = task.validation_dataset()
    if examples is None:
        return None
    B = options.batch_size // options.accumulate
    numbers = range(-(-options.validation_examples // B))
    measure = jax.jit(task.measure, out_shardings=(NamedSharding(mesh, REPLICATED), NamedSharding(mesh, BATCH)))

    def validate(params: dict) -> Validated:
        totals, drawn = {}, []
        for batch in batches(examples, B, numbers, mesh, options):
            sums, shown = measure(params, batch)
            for name, pair in jax.device_get(sums).items():
                totals[name] = totals.get(name, 0) + np.array(pair, np.float64)
            wanted = options.pictures - len(drawn)
            if is_first() and wanted > 0:
                drawn += _pictures(task, own_rows(batch, wanted), own_rows(shown, wanted))
        return Validated({name: float(total / max(count, 1)) for name, (total, count) in totals.items()}, drawn)

    return validate


def _pictures(task: Task, batch: dict, shown: dict) -> list[np.ndarray]:
    """The pictures of some rows; those that can't be drawn are missing, with a warning."""
    pictures = []
    for row, number in enumerate(batch[EXAMPLE]):
        example, found = ({name: array[row] for name, array in part.items()} for part in (batch, shown))
        try:
            pictures.append(task.draw(example, found))
        except Exception as error:  # whatever a drawing trips over, the training is worth more
            log.warning("example %d can't be drawn: %s: %s", number, type(error).__name__, error)
    return pictures


def own_rows(batch: dict[str, jax.Array], most: int) -> dict[str, np.ndarray]:
    """The first rows of a batch that lie on devices of this process."""

    def rows(array: jax.Array) -> np.ndarray:
        parts = {shard.index[0].indices(len(array))[0]: shard for shard in array.addressable_shards}
        return np.concatenate([np.asarray(parts[start].data) for start in sorted(parts)])[:most]

    return {name: rows(array) for name, array in batch.items()}
