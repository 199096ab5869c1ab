"""One driver for the evaluations of every system: a picture gives a line, and the report is a function of the lines.

A system has a table of tasks, one for each kind of dataset, and describes an `Evaluation`; `run` asks about all
pictures in batches, keeps the lines beside the report until it is written, and writes the files.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
from etils import epath

from grounding_jax.data.sources.registry import listed
from grounding_jax.evaluation.identity import Records, identity_of
from grounding_jax.evaluation.progress import PartialResults
from grounding_jax.files.records import to_json
from grounding_jax.language.batching import pad_batch, round_up

PROTOCOLS = ("official", "guided", "generated")

Report = dict[str, str | bool | int | float | None]
Output = Callable[[Report, Sequence[dict]], str]  # the text of a file, from the report and the lines


class Prepared(NamedTuple):
    """A picture of a dataset, ready to be asked about.

    Attributes:
        item: question of the task.
        shape: items of one shape can be answered in one batch without much padding.
        line: result of a picture that can't be asked about; None if it can.
    """

    item: Any
    shape: tuple[int, ...] = ()
    line: dict | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """How a kind of dataset is evaluated.

    Attributes:
        prepare: ``(model, setting, records) -> [Prepared, ...]``, one for each.
        predict: ``(model, setting, items) -> lines``: what is kept of each picture, as JSON knows it.
        report: ``(setting, lines) -> report`` about all pictures.
        protocols: those of `PROTOCOLS` that there are.
    """

    prepare: Callable[[Any, Any, Sequence[Any]], list[Prepared]]
    predict: Callable[[Any, Any, Sequence[Any]], list[dict]]
    report: Callable[[Any, Sequence[dict]], Report]
    protocols: tuple[str, ...] = PROTOCOLS


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model on one split of a dataset, asked in one way.

    Attributes:
        system: the package of the model.
        model: in memory; its ``engine`` is an `Engine`. None if the task asks no model.
        task: task of the dataset.
        setting: the way the task asks.
        source: the dataset.
        head: begins the report, with ``dataset`` and ``protocol``: which evaluation it is.
        also: anything else that tells it from others.
        given: see `identity_of`.
    """

    system: ModuleType
    model: Any
    task: Task
    setting: Any
    source: Records
    head: Report
    also: dict[str, Any]
    given: Callable[[Any], Any] | None = None


def find_task(tasks: Mapping[str, Task], dataset: str, protocol: str) -> Task:
    """The task of a dataset in a table that has them by names of datasets, or by how names begin (`Dataset.prefix`).

    Raises:
        ValueError: the dataset can't be evaluated, or not in this protocol.
    """
    task = tasks.get(dataset) or next(
        (tasks[prefix] for prefix in _prefixes(tasks) if dataset.startswith(prefix)), None
    )
    if task is None:
        names = listed(name for name in tasks if name not in _prefixes(tasks))
        raise ValueError(f"'{dataset}' can't be evaluated; the datasets that can are {names}")
    if protocol not in task.protocols:
        known = task.protocols if protocol in PROTOCOLS else PROTOCOLS
        raise ValueError(f"'{dataset}' has no protocol '{protocol}'; there are {', '.join(known)}")
    return task


def _prefixes(tasks: Mapping[str, Task]) -> list[str]:
    return [name for name in tasks if name.endswith("|")]


def run(
    evaluation: Evaluation,
    outputs: Mapping[epath.PathLike | None, Output],
    batch_size: int,
    process: tuple[int, int] | None = None,
) -> Report:
    """Evaluates, from where an earlier call with the same files was interrupted.

    Args:
        evaluation: model, task and data.
        outputs: the files to write in the end, and what goes into them; None is no file. Until then,
            FILE.partial.jsonl beside the first one has what is done.
        batch_size: pictures at once, rounded up to what divides over the model's mesh. Results do not depend on it.
        process: (which, of how many) share the pictures, by default those of JAX. Each returns the whole report, the
            first one writes the files.

    Raises:
        FileNotFoundError, ValueError: in one line: a file of the dataset is missing or damaged, or an unfinished
            evaluation of something else is beside the files.
    """
    if batch_size < 1:
        raise ValueError(f"the batch has {batch_size} pictures, should be at least 1")
    model, task, setting, head = evaluation.model, evaluation.task, evaluation.setting, evaluation.head
    source, engine = evaluation.source, None if model is None else model.engine
    first = next(filter(None, outputs), None)
    identity = {**head, **evaluation.also}
    if first is not None:
        identity |= identity_of(engine, evaluation.system, source, evaluation.given)
    process = process or (jax.process_index(), jax.process_count())
    results = PartialResults(first, identity, len(source), process)
    todo = results.todo
    size = round_up(min(batch_size, len(todo)), 1 if engine is None else engine.batcher.multiple)
    batches = (todo[start : start + size] for start in range(0, len(todo), size))
    prepared = (
        pair
        for indices in batches
        for pair in zip(indices, task.prepare(model, setting, [source[k] for k in indices]), strict=True)
    )
    answered = _answer(prepared, size, lambda items: task.predict(model, setting, items))
    results.work(f"{head['dataset']}, {head['protocol']}", answered)
    lines = results.gather()
    report = {**head, "num_images": len(lines), **task.report(setting, lines)}
    results.finish({file: text(report, lines) for file, text in outputs.items() if file and results.is_first})
    return report


def as_json(report: Report, lines: Sequence[dict]) -> str:
    """The report as an `Output`."""
    del lines
    return to_json(report, indent=2) + "\n"


def listed_predictions(report: Report, lines: Sequence[dict]) -> str:
    """Every prediction of a whole split as an `Output`, one line of JSON each."""
    del report
    return "".join(to_json(one) + "\n" for line in lines for one in line["predictions"])


def _answer(
    prepared: Iterable[tuple[int, Prepared]], size: int, predict: Callable[[list], list[dict]]
) -> Iterator[list[dict]]:
    """Lines with the numbers of their pictures: pictures of equal shapes together; in the end what is left, similar
    shapes together."""

    def answer(batch: Sequence[tuple[int, Any]]) -> list[dict]:
        padded = pad_batch([item for _, item in batch], size)  # another number of rows would be another program
        return [{"index": index, **line} for (index, _), line in zip(batch, predict(padded), strict=False)]

    waiting: dict[tuple[int, ...], list[tuple[int, Any]]] = {}
    for index, (item, shape, line) in prepared:
        if line is not None:
            yield [{"index": index, **line}]
            continue
        alike = waiting.setdefault(shape, [])
        alike.append((index, item))
        if len(alike) == size:
            yield answer(waiting.pop(shape))
    rest = [pair for shape in sorted(waiting) for pair in waiting[shape]]
    for start in range(0, len(rest), size):
        yield answer(rest[start : start + size])
