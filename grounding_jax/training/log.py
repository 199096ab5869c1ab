"""What a training run tells: a progress bar, a line of JSON and TensorBoard scalars every few updates."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from types import TracebackType

import jax
import numpy as np
from etils import epath
from PIL import Image
from rich.progress import TextColumn
from tensorboardX import SummaryWriter

from grounding_jax.files.records import to_json
from grounding_jax.sharding.hosts import is_first
from grounding_jax.terminal import COUNTED, counting
from grounding_jax.training.run_folder import BOARD_FOLDER, LOG_FILE, PICTURES
from grounding_jax.training.task import Work
from grounding_jax.training.validation import Validated

# Dense bfloat16 FLOP/s of a device, by the name that JAX gives its kind; from the vendors' data sheets.
PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H200": 989e12,
}


class Log:
    """The log of a run, written by the first process only; a context.

    Args:
        run: the run folder; scalars are appended to its ``log.jsonl`` and ``tensorboard``.
        steps: updates in all.
        start: updates made before.
        batch_size: examples an update.
        work: the work of an example.
    """

    def __init__(self, run: epath.Path, steps: int, start: int, batch_size: int, work: Work):
        self._run, self._batch_size, self._work = run, batch_size, work
        self._steps, self._opened = steps, contextlib.ExitStack()
        self._waited, self._clock, self._last = 0.0, time.perf_counter(), start

    def __enter__(self) -> Log:
        columns = (*COUNTED, TextColumn("{task.fields[more]}"))
        self._count = self._opened.enter_context(counting(columns, keep=True, shown=is_first()))
        self._count(self._run.name, self._last, self._steps, "compiling")
        if is_first():
            self._board = SummaryWriter(str(self._run / BOARD_FOLDER))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._opened.close()
        if is_first():
            self._board.close()

    def waiting(self, batches: Iterator[dict]) -> Iterator[dict]:
        """The batches; how long they let one wait is counted."""
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def write(self, step: int, scalars: dict[str, jax.Array]) -> dict[str, float]:
        """Notes the scalars of an update and the speed since the last note; waits for the device. Returns the line."""
        # As few digits as tell a float32 from its neighbours: two runs can be compared bit for bit.
        values = {name: float(str(np.float32(value))) for name, value in jax.device_get(scalars).items()}
        now = time.perf_counter()
        seconds, updates = now - self._clock, max(step - self._last, 1)
        speed = self._speed(updates * self._batch_size / seconds, min(self._waited / seconds, 1.0))
        line = {"step": step, **speed, **values}
        self._waited, self._clock, self._last = 0.0, now, step
        if is_first():
            with (self._run / LOG_FILE).open("a") as file:
                file.write(to_json(_numbers(line)) + "\n")
            for name, value in line.items():
                self._board.add_scalar(name, value, step)
            text = f"loss {values['loss']:.3f}  {speed['examples_per_second']:.1f} examples/s"
            self._count(self._run.name, step, self._steps, text)
        return line

    def validated(self, step: int, found: Validated) -> dict[str, float]:
        """Shows what a validation found, keeps its pictures, and returns its scores; its time is not the training's."""
        if is_first():
            for name, value in found.scores.items():
                self._board.add_scalar(f"validation/{name}", value, step)
            (self._run / PICTURES).mkdir(exist_ok=True)
            for k, picture in enumerate(found.pictures):
                with (self._run / PICTURES / f"{step:06d}-{k}.jpg").open("wb") as file:
                    Image.fromarray(picture).save(file, "JPEG", quality=90)
                self._board.add_image(f"validation/{k}", picture, step, dataformats="HWC")
        self._waited, self._clock, self._last = 0.0, time.perf_counter(), step
        return found.scores

    def _speed(self, rate: float, waiting: float) -> dict[str, float]:
        """How fast it goes: per second, the share of time spent waiting for data, and model FLOPs utilisation."""
        speed = {"examples_per_second": round(rate, 2), "waiting_for_data": round(waiting, 3)}
        if self._work.tokens:
            speed["tokens_per_second"] = round(rate * self._work.tokens)
        peak = PEAKS.get(jax.devices()[0].device_kind, 0) * jax.device_count()
        if self._work.flops and peak:
            speed["mfu"] = round(rate * self._work.flops / peak, 4)
        return speed


def _numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Values as JSON can hold them: null for a loss that is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
