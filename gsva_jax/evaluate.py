"""Evaluation on public datasets and on scenes, in one of three protocols that are never mixed (docs/architecture.md).

    report = evaluate(gsva_jax.load("tiny"), root, "grefcoco|unc|val", "generated", out_json="report.json")

What each picture gave is kept beside the report until it is written, so that an interrupted evaluation goes on where
it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from grounding_jax.data.datasets import check_evaluated, open_dataset
from grounding_jax.data.reasonseg import ReasonRecord, ReasonSegSource
from grounding_jax.data.refer import REFER_DATASETS, ReferSource
from grounding_jax.data.semantic import ClassRecord, LabelMapSource
from grounding_jax.files.masks import mask_record
from grounding_jax.files.pictures import open_annotated
from grounding_jax.files.records import to_json
from grounding_jax.language.batching import bucket, filled
from grounding_jax.metrics.gres import GresTotals, grefcoco_metrics, refzom_metrics
from grounding_jax.metrics.outcomes import Outcome, compare_masks
from grounding_jax.metrics.res import ResTotals, res_metrics
from grounding_jax.metrics.semantic import ClassTotals, semantic_metrics
from grounding_jax.unfinished import Unfinished
from gsva_jax.gallery import gallery_page
from gsva_jax.predict import Gsva
from gsva_jax.prompts import OFFICIAL_QUESTIONS
from gsva_jax.protocols import PROTOCOLS, Asked, Prediction, PresentClasses, Request, predict, prepare
from gsva_jax.published import markdown_table

# The datasets with absent targets, which the release evaluates in another way (spec gsva f.2), and their metrics.
_WITH_ABSENT = {"grefcoco": grefcoco_metrics, "refzom": refzom_metrics, "jsonl": grefcoco_metrics}
_CLASSES = "ade20k|validation"
_FAMILY_METRICS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.5")
_GREY = 128

_Source = ReferSource | ReasonSegSource | LabelMapSource


def evaluate(
    gsva: Gsva,
    root: epath.PathLike,
    dataset: str,
    protocol: str,
    out_json: epath.PathLike | None = None,
    predictions: epath.PathLike | None = None,
    *,
    markdown: epath.PathLike | None = None,
    gallery: epath.PathLike | None = None,
    question: str = "what",
    batch_size: int = 8,
    blind: bool = False,
    process: tuple[int, int] | None = None,
) -> dict[str, str | bool | int | float | None]:
    """Evaluates a model on one split of a dataset.

    Args:
        gsva: the model.
        root: the folder that holds refer_seg/, reason_seg/ or ade20k/.
        dataset, protocol: see `check_dataset`.
        out_json: where the result is written, too. Until then, FILE.partial.jsonl beside the first file asked for has
            what is done, and another call with the same arguments goes on from there.
        predictions: a file for every prediction, one line of JSON each: what `gsva segment` writes of a target, and
            the picture, the pixels of both masks and, where the model wrote freely, its answer.
        markdown: a file for a table that has published numbers beside ours, see `published`.
        gallery: a file for a page that shows the best, the worst and some other pictures, see `gallery`.
        question: how the official protocol asks for a list: one of `prompts.OFFICIAL_QUESTIONS`.
        batch_size: pictures at once, rounded up to what divides over the model's mesh. Results do not depend on it.
        blind: show a grey picture instead of the right one, for what the text alone gives away.
        process: (which, of how many) share the pictures, by default those of JAX. Each returns the whole report, the
            first one writes the files.

    Returns:
        One flat dict: ``dataset``, ``protocol``, ``blind``, ``question`` where there is a choice; and `_report`'s.

    Raises:
        FileNotFoundError, ValueError: in one line: see `check_dataset`; a file of the dataset that is missing or
            damaged; or an unfinished evaluation of something else beside the files.
    """
    check_dataset(dataset, protocol, question)
    source = open_dataset(root, dataset)
    asked = {"dataset": dataset, "protocol": protocol, "blind": blind, **_question(gsva, dataset, protocol, question)}
    options = {**asked, "predictions": bool(predictions or gallery)}
    files = (out_json, predictions, markdown, gallery)
    unfinished = Unfinished.of(gsva, root, options, len(source), files, process)
    unfinished.work(f"{dataset}, {protocol}", _answer(gsva, source, unfinished.todo, batch_size, options))
    lines = unfinished.gather()
    report = {**asked, **_report(dataset, protocol, lines)}
    texts = {
        out_json: lambda: to_json(report, indent=2) + "\n",
        predictions: lambda: _listed(lines),
        markdown: lambda: markdown_table(report),
        gallery: lambda: gallery_page(report, lines, functools.partial(_record, source)),
    }
    unfinished.finish(texts)
    return report


def check_dataset(dataset: str, protocol: str, question: str = "what") -> None:
    """Tells whether there is such an evaluation, before anything is loaded.

    Args:
        dataset: such as "grefcoco|unc|val"; of `datasets.EVALUATED_DATASETS`. "ade20k|validation" has the official
            protocol only.
        protocol: "official", "guided" or "generated", see `protocols`.
        question: one of `prompts.OFFICIAL_QUESTIONS`; "what" where the protocol does not ask for a list.

    Raises:
        ValueError: there is not.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"unknown protocol '{protocol}'; there are {', '.join(PROTOCOLS)}")
    if question not in OFFICIAL_QUESTIONS:
        raise ValueError(f"unknown question '{question}'; there are {', '.join(OFFICIAL_QUESTIONS)}")
    check_evaluated(dataset)
    if dataset == _CLASSES and protocol != "official":
        raise ValueError(
            f"'{_CLASSES}' has the official protocol only, not '{protocol}': all that is asked for is there"
        )
    if question != "what" and not _asks_for_list(dataset, protocol):
        raise ValueError(
            f"the question '{question}' is of the official protocol on datasets of expressions; "
            f"'{dataset}' in the protocol '{protocol}' has only 'what'"
        )


def _asks_for_list(dataset: str, protocol: str) -> bool:
    return protocol == "official" and dataset in REFER_DATASETS


def _question(gsva: Gsva, dataset: str, protocol: str, question: str) -> dict[str, str]:
    """The question as reports have it, where there is a choice."""
    if not _asks_for_list(dataset, protocol):
        return {}
    if gsva.tokenizer.rej is None and question != "what":
        raise ValueError(
            f"a model without [REJ] is asked for one target at a time, not for a list in form '{question}'"
        )
    return {} if gsva.tokenizer.rej is None else {"question": question}


def _answer(gsva: Gsva, source: _Source, todo: Sequence[int], batch_size: int, options: dict) -> Iterator[list[dict]]:
    """Asks about pictures, batch by batch, and gives their lines."""
    size = bucket(min(batch_size, len(todo)), gsva.batcher.multiple)
    asked = (options["protocol"], options.get("question", "what"))
    requests = (prepare(gsva, asked[0], index, _record(source, index), asked[1]) for index in todo)
    for batch in _batches(requests, size):
        padded = filled(batch, size)  # another number of rows would be another program
        pictures = [_picture(request.record, options["blind"]) for request in padded]
        answers = predict(gsva, options["protocol"], padded, pictures, _kind(source.name) in _WITH_ABSENT)
        yield [_line(*pair, options) for pair in zip(batch, answers, strict=False)]


def _record(source: _Source, index: int) -> Asked:
    record = source[index]
    return PresentClasses(record) if isinstance(record, ClassRecord) else record


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


def _picture(record: Asked, blind: bool) -> np.ndarray:
    """A record's picture, uint8 ``[H, W, 3]``."""
    if blind:
        return np.full((*record.size, 3), _GREY, np.uint8)
    return open_annotated(record.image, record.size)


def _line(request: Request, answer: Prediction, options: dict) -> dict:
    """What is kept of one picture."""
    record = request.record
    decisions = answer.rejected, answer.missing
    outcomes = compare_masks(answer.masks, record.masks, *decisions, record.ignore)
    lisa_outcomes = []
    if options["protocol"] == "official" and isinstance(record, ReasonRecord):
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


def _listed(lines: Sequence[dict]) -> str:
    """Every prediction of a whole split, one line of JSON each."""
    return "".join(to_json(target) + "\n" for line in lines for target in line["predictions"])


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
        **_metrics(dataset, protocol, outcomes, [name for line in lines for name in line["families"]]),
        **{f"lisa_{name}": value for name, value in lisa.items()},
        **counts,
    }


def _kind(dataset: str) -> str:
    """A dataset's name without its split."""
    return dataset.partition("|")[0]


def _metrics(
    dataset: str, protocol: str, outcomes: Sequence[Outcome], families: Sequence[str | None]
) -> dict[str, int | float | None]:
    if dataset == _CLASSES:
        return semantic_metrics(ClassTotals.of(outcomes, families))
    totals = GresTotals.of(outcomes)
    if _kind(dataset) in _WITH_ABSENT:
        return {**_WITH_ABSENT[_kind(dataset)](totals), **_by_family(outcomes, families)}
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
