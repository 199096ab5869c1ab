"""Examples drawn from datasets: walked over again and again, mixed by rates, bad records replaced.

Example i is a function of (seed, i) on any number of hosts. So records that give no example are replaced where they are
met and never filtered out, which would shift all examples behind them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import grain
import numpy as np

from grounding_jax.data.sources.registry import Source
from grounding_jax.training.batches import BAD

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 20  # records in a row that give no example, after which something must be wrong with the data

Arrays = dict[str, np.ndarray]
Make = Callable[[Source, int, np.random.Generator], Arrays]  # the example of a record, given by its place


class Unusable(ValueError):
    """This record gives no example, though nothing is wrong with it: another one is drawn."""


def walked(source: Source, seed: int, make: Make) -> grain.MapDataset:
    """Endless examples of one dataset: all its records in an order of its own, again and again."""
    numbers = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat()
    return numbers.random_map(functools.partial(usable, source, make=make))


def mixed(families: Sequence[tuple[float, Sequence[grain.MapDataset]]]) -> grain.MapDataset:
    """Families at their rates, and inside each family its datasets uniformly."""
    datasets = [grain.MapDataset.mix(list(members)) for _, members in families]
    return grain.MapDataset.mix(datasets, [rate for rate, _ in families])


def usable(source: Source, number: int, rng: np.random.Generator, *, make: Make) -> Arrays:
    """The example of a record, or of another one of its source where that gives none.

    Damaged records are named, and counted in the example.

    Raises:
        ValueError: `MOST_ATTEMPTS` records in a row gave no example.
    """
    bad, reason = 0, ""
    for _ in range(MOST_ATTEMPTS):
        try:
            return {**make(source, number, rng), BAD: np.int32(bad)}
        except Unusable as error:
            reason = str(error)
        except (OSError, ValueError) as error:
            bad, reason = bad + 1, str(error)
            log.warning("%s, record %d is left out: %s", source.name, number, error)
        number = int(rng.integers(len(source)))
    raise ValueError(f"{MOST_ATTEMPTS} records of {source.name} in a row gave no example; the last one: {reason}")
