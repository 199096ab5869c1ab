"""Batches for a mesh: example i is a function of (seed, i), and a host makes its own rows only."""

from __future__ import annotations

from collections.abc import Iterator

import grain
import numpy as np
from jax.sharding import Mesh

from grounding_jax.sharding.mesh import global_batch, local_rows
from grounding_jax.training.options import TrainOptions

EXAMPLE = "example"  # the array of a batch that has the global numbers of its examples
BAD = "bad_records"  # that an example may have: damaged records that were passed over for it
_SURE = 1000  # examples before the share of damaged records is judged


def batches(
    examples: grain.MapDataset, batch_size: int, numbers: range, mesh: Mesh, options: TrainOptions
) -> Iterator[dict]:
    """Batches of examples, as arrays over the whole mesh.

    Batch s has the examples s B, ..., (s + 1) B - 1, whatever the mesh and the number of hosts; so the position in the
    data is the step, and a host needs to know its rows only.

    Args:
        examples: for instance those of a task.
        batch_size: B.
        numbers: numbers of the batches, one after the other.
        mesh: mesh that the arrays go to.
        options: threads, and the share of damaged records that is allowed.

    Raises:
        ValueError: more records were damaged.
    """
    B, rows = batch_size, local_rows(mesh, batch_size)

    def numbered(k: int) -> dict:
        number = (k // len(rows)) * B + rows[k % len(rows)]
        return {**examples[number], EXAMPLE: np.int32(number)}

    seen = bad = 0
    wanted = grain.MapDataset.range(numbers.start * len(rows), numbers.stop * len(rows)).map(numbered)
    read = grain.ReadOptions(num_threads=options.threads, prefetch_buffer_size=4 * len(rows))
    for local in wanted.batch(len(rows)).to_iter_dataset(read):
        seen, bad = seen + len(rows), bad + int(local.pop(BAD, np.zeros(1)).sum())
        if bad > options.most_bad_records * max(seen, _SURE):
            raise ValueError(
                f"{bad} of {seen} records were damaged and passed over, more than a share of "
                f"{options.most_bad_records}: the warnings above name them"
            )
        yield global_batch(mesh, B, rows, local)
