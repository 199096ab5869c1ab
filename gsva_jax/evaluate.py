"""Evaluation on public datasets and on scenes, in one of three protocols that are never mixed (docs/architecture.md).

    report = evaluate(gsva_jax.load("tiny"), root, "grefcoco|unc|val", "generated", out_json="report.json")

What each picture gave is kept beside the report until it is written, so that an interrupted evaluation goes on where
it stopped.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from etils import epath
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.masks import mask_record
from grounding_jax.data.pictures import open_picture
from grounding_jax.data.reasonseg import ReasonRecord, ReasonSegSource
from grounding_jax.data.refer import Record, ReferSource
from grounding_jax.metrics.gres import GresTotals, grefcoco_metrics, refzom_metrics
from grounding_jax.metrics.outcomes import Outcome, compare_masks
from grounding_jax.metrics.res import ResTotals, res_metrics
from gsva_jax.predict import Gsva
from gsva_jax.protocols import PROTOCOLS, Prediction, Request, predict, prepare

# The datasets with absent targets, which the release evaluates in another way (spec gsva f.2), and their metrics.
_WITH_ABSENT = {"grefcoco": grefcoco_metrics, "refzom": refzom_metrics}
_FAMILY_METRICS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.5")
_GREY = 128
_COLUMNS = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def evaluate(
    gsva: Gsva,
    root: epath.PathLike,
    dataset: str,
    protocol: str,
    out_json: epath.PathLike | None = None,
    predictions: epath.PathLike | None = None,
    *,
    batch_size: int = 8,
    blind: bool = False,
) -> dict[str, str | bool | int | float | None]:
    """Evaluates a model on one split of a dataset.

    Args:
        gsva: the model.
        root: the folder that holds refer_seg/ and reason_seg/.
        dataset: such as "grefcoco|unc|val", see `datasets.KNOWN_DATASETS`.
        protocol: "official", "guided" or "generated", see `protocols`.
        out_json: where the result is written, too. Until then, FILE.partial.jsonl beside it has what is done, and
            another call with the same arguments goes on from there.
        predictions: a file for every prediction, one line of JSON each: what `gsva segment` writes of a target, and
            the picture, the pixels of both masks and, where the model wrote freely, its answer.
        batch_size: pictures at once. Results do not depend on it.
        blind: show a grey picture instead of the right one, for what the text alone gives away.

    Returns:
        One flat dict: ``dataset``, ``protocol``, ``blind``, ``num_images``, ``num_targets``; metrics as fractions by
        their names, None where there is nothing to average (ReasonSeg's ignored pixels are left out as in LISA, but
        the official protocol counts them as target, as the release does, spec gsva h 8, and has LISA's numbers beside
        as ``lisa_gIoU`` and ``lisa_cIoU``); where the dataset tells the kinds of its expressions, the
        same with a kind in brackets, such as ``gIoU[place]``; and counts of what went wrong: ``num_too_long`` pictures
        whose text is longer than the model's context (it is read nevertheless), and for generated answers
        ``num_missing`` and ``num_surplus`` [SEG] and [REJ].

    Raises:
        FileNotFoundError, ValueError: in one line: an unknown dataset or protocol, a file of the dataset that is
            missing or damaged, or an unfinished evaluation of something else beside ``out_json``.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{protocol}'; there are {', '.join(PROTOCOLS)}")
    source = open_dataset(root, dataset)
    options = dict(protocol=protocol, blind=blind, predictions=bool(predictions))
    partial = epath.Path(out_json or predictions).with_suffix(".partial.jsonl") if out_json or predictions else None
    done = _resume(partial, gsva, {"data": str(root), "dataset": dataset, **options}) if partial else {}
    with Progress(*_COLUMNS, console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"{dataset}, {protocol}", total=len(source), completed=len(done))
        for lines in _answers(gsva, source, set(done), batch_size, options):
            if partial:
                with partial.open("a") as file:
                    file.write("".join(json.dumps(line) + "\n" for line in lines))
            done |= {line["index"]: line for line in lines}
            progress.update(bar, completed=len(done))
    lines = [done[index] for index in sorted(done)]
    report = {"dataset": dataset, "protocol": protocol, "blind": blind, **_report(dataset, protocol, lines)}
    if predictions:
        text = "".join(json.dumps(target) + "\n" for line in lines for target in line["predictions"])
        epath.Path(predictions).write_text(text)
    if out_json:
        epath.Path(out_json).write_text(json.dumps(report, indent=2) + "\n")
    if partial:
        partial.unlink()
    return report


def _answers(
    gsva: Gsva, source: ReferSource | ReasonSegSource, done: set[int], batch_size: int, options: dict
) -> Iterator[list[dict]]:
    """What is kept of every picture that is not done, batch by batch."""
    todo = [index for index in range(len(source)) if index not in done]
    size = max(min(batch_size, len(todo)), 1)
    requests = (prepare(gsva, options["protocol"], index, source[index]) for index in todo)
    for batch in _batches(requests, size):
        padded = [*batch, *batch[:1] * (size - len(batch))]  # another number of rows would be another program
        pictures = [_picture(request.record, options["blind"]) for request in padded]
        answers = predict(gsva, options["protocol"], padded, pictures, _kind(source.name) in _WITH_ABSENT)
        yield [_line(*pair, options) for pair in zip(batch, answers, strict=False)]


def _batches(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    """Pictures of equal shapes together; in the end what is left, similar shapes together."""
    waiting: dict[tuple[int, int], list[Request]] = {}
    for request in requests:
        alike = waiting.setdefault(request.shape, [])
        alike.append(request)
        if len(alike) == size:
            yield waiting.pop(request.shape)
    rest = [request for shape in sorted(waiting) for request in waiting[shape]]
    for start in range(0, len(rest), size):
        yield rest[start : start + size]


def _picture(record: Record | ReasonRecord, blind: bool) -> np.ndarray:
    """A record's picture, uint8 ``[H, W, 3]``."""
    if blind:
        return np.full((*record.size, 3), _GREY, np.uint8)
    picture = open_picture(record.image)
    if picture.shape[:2] != tuple(record.size):
        sizes = [" x ".join(map(str, size)) for size in (picture.shape[:2], record.size)]
        raise ValueError(f"{record.image} has {sizes[0]} pixels, but its annotation is for {sizes[1]}")
    return picture


def _line(request: Request, answer: Prediction, options: dict) -> dict:
    """What is kept of one picture."""
    record = request.record
    decisions = answer.rejected, answer.missing
    outcomes = compare_masks(answer.masks, record.masks, *decisions, record.ignore)
    lisa_outcomes = []
    if options["protocol"] == "official" and record.ignore is not None:
        lisa_outcomes, outcomes = outcomes, compare_masks(answer.masks, record.masks | record.ignore, *decisions)
    line = {
        "index": request.index,
        "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
        "lisa_outcomes": [dataclasses.asdict(outcome) for outcome in lisa_outcomes],
        "families": record.families or [None] * request.num_targets,
        "surplus": answer.surplus,
        "too_long": request.too_long,
    }
    if options["predictions"]:
        line["predictions"] = [
            {
                "image": record.image.name,
                "image_id": record.image_id,
                "expression": record.expressions[j],
                "rejected": outcome.rejected,
                "missing": outcome.missing,
                "score": float(answer.scores[j]),
                **mask_record(answer.masks[j]),
                "intersection": outcome.intersection,
                "union": outcome.union,
                "target_area": outcome.target,
                **({} if answer.text is None else {"answer": answer.text}),
            }
            for j, outcome in enumerate(outcomes)
        ]
    return line


def _report(dataset: str, protocol: str, lines: Sequence[dict]) -> dict[str, int | float | None]:
    """Numbers of a whole split."""
    outcomes, lisa_outcomes = (
        [Outcome(**values) for line in lines for values in line[name]] for name in ("outcomes", "lisa_outcomes")
    )
    lisa = res_metrics(ResTotals.of(lisa_outcomes)) if lisa_outcomes else {}
    counts = {"num_too_long": sum(line["too_long"] for line in lines)}
    if protocol == "generated":
        counts["num_missing"] = sum(outcome.missing for outcome in outcomes)
        counts["num_surplus"] = sum(line["surplus"] for line in lines)
    return {
        "num_images": len(lines),
        "num_targets": len(outcomes),
        **_metrics(dataset, protocol, outcomes),
        **{f"lisa_{name}": value for name, value in lisa.items()},
        **_by_family(outcomes, [name for line in lines for name in line["families"]]),
        **counts,
    }


def _kind(dataset: str) -> str:
    """A dataset's name without its split."""
    return dataset.partition("|")[0]


def _metrics(dataset: str, protocol: str, outcomes: Sequence[Outcome]) -> dict[str, float | None]:
    totals = GresTotals.of(outcomes)
    if _kind(dataset) in _WITH_ABSENT:
        return _WITH_ABSENT[_kind(dataset)](totals)
    metrics = res_metrics(ResTotals.of(outcomes))
    if protocol != "official":  # there, this data knows no rejection
        metrics["T_acc"] = grefcoco_metrics(totals)["T_acc"]
    return metrics


def _by_family(outcomes: Sequence[Outcome], families: Sequence[str | None]) -> dict[str, int | float]:
    """Numbers of each kind of expression, where the dataset tells it."""
    result = {}
    for family in sorted({*families} - {None}):
        chosen = [outcome for outcome, other in zip(outcomes, families, strict=True) if other == family]
        metrics = grefcoco_metrics(GresTotals.of(chosen))
        result[f"num_targets[{family}]"] = len(chosen)
        result |= {f"{name}[{family}]": metrics[name] for name in _FAMILY_METRICS if metrics[name] is not None}
    return result


def _resume(partial: epath.Path, gsva: Gsva, options: dict) -> dict[int, dict]:
    """What an interrupted evaluation has done, by index; starts its file if there is none.

    Raises:
        ValueError: the file belongs to another evaluation.
    """
    identity = {"model": _fingerprint(gsva), **options}
    text = partial.read_text() if partial.exists() else ""
    complete = text[: text.rfind("\n") + 1]  # it may have been interrupted in the middle of a line
    if not complete:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(identity) + "\n")
        return {}
    if complete != text:
        partial.write_text(complete)
    before, *lines = map(json.loads, complete.splitlines())
    for key, value in identity.items():
        if before.get(key) != value:
            raise ValueError(
                f"{partial} is from an unfinished evaluation with {key} {before.get(key)!r}, this one has {value!r}: "
                "finish that one first, or delete the file"
            )
    return {line["index"]: line for line in lines}


def _fingerprint(gsva: Gsva) -> str:
    """Tells models apart: a digest of the sizes, the dtype and the first numbers of every array."""
    digest = hashlib.sha256(f"{gsva.config.to_json()} {np.dtype(gsva.dtype)}".encode())
    for leaf in jax.tree.leaves(_first_numbers(gsva.params)):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()[:16]


@jax.jit
def _first_numbers(params: dict) -> dict:
    return jax.tree.map(lambda leaf: leaf.reshape(-1)[:16], params)
