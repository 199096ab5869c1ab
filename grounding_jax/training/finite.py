"""Updates whose loss or gradient is not finite: their examples are written down, and too many in a row end a run."""

from __future__ import annotations

import jax
import numpy as np
from etils import epath

from grounding_jax.files.records import to_json
from grounding_jax.training.run_folder import BAD_STEPS_FILE


class FiniteWatch:
    """Looks at each update when the next one has begun: looking at once would hold up the devices.

    Args:
        run: the run folder, whose ``bad_steps.jsonl`` gets a line for each update that was skipped, with the examples
            of the first process; those of others are in ``bad_steps.PROCESS.jsonl``.
        most: such updates in a row that end the run.
    """

    def __init__(self, run: epath.Path, most: int):
        number = jax.process_index()  # two that append to one file of a shared disk lose lines
        self._file = run / (BAD_STEPS_FILE.replace(".", f".{number}.") if number else BAD_STEPS_FILE)
        self._most, self._seen = most, None

    def see(self, step: int, scalars: dict[str, jax.Array], examples: jax.Array) -> None:
        """Takes an update, and checks the one before; see `check`."""
        self.check()
        self._seen = step, scalars, examples

    def check(self) -> None:
        """Checks the update that was seen last.

        Raises:
            ValueError: there were too many bad ones in a row.
        """
        if self._seen is None:
            return
        (step, scalars, examples), self._seen = self._seen, None
        bad = int(jax.device_get(scalars["bad_in_a_row"]))
        if not bad:
            return
        numbers = sorted({int(n) for shard in examples.addressable_shards for n in np.asarray(shard.data)})
        with self._file.open("a") as out:
            out.write(to_json({"step": step, "process": jax.process_index(), "examples": numbers}) + "\n")
        if bad >= self._most:
            raise ValueError(
                f"the loss or its gradient was not finite in {bad} updates in a row, up to step {step}: the numbers of "
                f"the examples are in {self._file}"
            )
