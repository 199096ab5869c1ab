"""Being asked to stop: SIGTERM, which clouds send before they take a machine away."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

# The exit status of a run that was asked to stop, has saved, and can go on: EX_TEMPFAIL of sysexits.h.
EXIT_PREEMPTED = 75


class Preempted(Exception):
    """The run was asked to stop and has saved its state."""

    def __init__(self, step: int):
        super().__init__(f"stopped by SIGTERM, saved at step {step}: the same command goes on from there")


@contextlib.contextmanager
def watch(start: int) -> Iterator[Callable[[int], bool]]:
    """Gives the function that tells, after an update, whether to stop there.

    Several hosts may be told at different moments; they agree on one step, so that they save the same state.

    Args:
        start: updates made before.
    """
    asked = []
    if jax.process_count() > 1:  # jax.distributed has taken over the signal
        # The hosts agree on the update behind the last one that any has named. Before one was named, that is update 1,
        # which a resumed run never comes to.
        early = multihost_utils.reached_preemption_sync_point(1)
        multihost_utils.reached_preemption_sync_point(start)
        early = multihost_utils.process_allgather(np.array(early)).any()
        yield lambda step: early or multihost_utils.reached_preemption_sync_point(step)
        return
    before = signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
    try:
        yield lambda step: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
