"""A trace of a few updates for TensorBoard's profiler: what every device did when."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import jax
from etils import epath

_FIRST = 5  # updates after the start of a call until the trace begins: the first ones compile and fill pipelines


@contextlib.contextmanager
def tracing(folder: epath.Path, start: int, updates: int) -> Iterator[Callable[[int], None]]:
    """Gives the function that is told before each update which one it is, and traces some of them.

    Args:
        folder: folder for the results.
        start: updates made before this call.
        updates: number of updates to trace; 0 for none.
    """
    running = False

    def before(step: int) -> None:
        nonlocal running
        if updates and step == start + _FIRST:
            jax.profiler.start_trace(str(folder))
            running = True
        elif running and step == start + _FIRST + updates:
            jax.profiler.stop_trace()
            running = False

    try:
        yield before
    finally:
        if running:
            jax.profiler.stop_trace()
