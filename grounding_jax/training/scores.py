"""The scores of a run's checkpoints. They come after the save, so that a validation that fails loses nothing."""

from __future__ import annotations

import dataclasses
import heapq
import logging
import math
from collections.abc import Iterable, Sequence

from etils import epath
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext

from grounding_jax.files import records
from grounding_jax.files.writing import write_text
from grounding_jax.sharding.hosts import is_first
from grounding_jax.training.run_folder import VALIDATION_FILE

log = logging.getLogger(__name__)

_LINE = dict[str, float]  # "step", and the scores
_EXAMPLE = '{"step": 100, "gIoU": 0.5}'


class Scores:
    """The scores of a run by step, and their file ``validation.jsonl``; every process knows all of them.

    Args:
        run: the run folder.

    Raises:
        ValueError: the file holds something else.
    """

    def __init__(self, run: epath.Path):
        self._file, self._by_step = run / VALIDATION_FILE, {}
        for number, scores in records.read_lines(self._file, _LINE, _EXAMPLE) if self._file.exists() else ():
            if "step" not in scores:
                raise ValueError(f"{self._file}, line {number}: no scores of a step, such as {_EXAMPLE}")
            self._by_step[int(scores.pop("step"))] = scores

    def of(self, step: int) -> dict[str, float] | None:
        """The scores of a step, all finite; None where it was not validated."""
        return self._by_step.get(step)

    def add(self, step: int, scores: dict[str, float]) -> None:
        """Notes the scores of a step in the place of older ones; all processes call it, the first one writes.

        A model that has diverged may have scores that are no numbers: they are left out, with a warning.
        """
        self._by_step.pop(step, None)
        self._by_step[step] = {name: score for name, score in scores.items() if math.isfinite(score)}
        if is_first():
            for name in scores.keys() - self._by_step[step].keys():
                log.warning("step %d: its %s is %s, and left out of %s", step, name, scores[name], self._file)
            lines = (records.to_json({"step": step, **found}) for step, found in self._by_step.items())
            write_text(self._file, "".join(line + "\n" for line in lines))


@dataclasses.dataclass(frozen=True)
class Best:
    """Preserves the checkpoints with the best scores, as a policy of Orbax.

    Attributes:
        scores: those of the run.
        metric: the score that decides; higher is better, and among equals the later one.
        n: number of checkpoints to preserve.
    """

    scores: Scores
    metric: str
    n: int = 1

    def among(self, steps: Iterable[int]) -> list[int]:
        """The best of some steps that have the score, the very best first."""
        found = {step: self.scores.of(step) or {} for step in steps}
        scored = [step for step, scores in found.items() if self.metric in scores]
        return heapq.nlargest(self.n, scored, key=lambda step: (found[step][self.metric], step))

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        """Called by Orbax at each save."""
        best = self.among(info.step for info in checkpoints)
        return [info.step in best for info in checkpoints]
