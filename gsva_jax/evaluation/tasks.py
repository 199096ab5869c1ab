"""The kinds of datasets that GSVA is evaluated on: how their pictures are asked about, and what is reported of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from grounding_jax.data.sources.narratives import NARRATIVE_DATASETS, NarrativeRecord
from grounding_jax.data.sources.own_data import OWN_DATA
from grounding_jax.data.sources.reasonseg import REASONSEG_DATASETS
from grounding_jax.data.sources.refer import REFER_DATASETS
from grounding_jax.data.sources.semantic import ClassRecord
from grounding_jax.evaluation.run import Prepared, Report, Task
from grounding_jax.files.masks import mask_record
from grounding_jax.files.pictures import open_annotated
from grounding_jax.metrics.gres import GresTotals, grefcoco_metrics, refzom_metrics
from grounding_jax.metrics.narrative import NarrativeTotals, Phrase, narrative_metrics
from grounding_jax.metrics.outcomes import Outcome, compare_masks
from grounding_jax.metrics.res import ResTotals, res_metrics
from grounding_jax.metrics.semantic import ClassTotals, semantic_metrics
from gsva_jax.evaluation import protocols
from gsva_jax.evaluation.protocols import Asked, GroundedPhrases, Prediction, PresentClasses, Request
from gsva_jax.predict import Gsva

_FAMILY_METRICS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.5")
_GREY = 128

# The kind of each expression, where the dataset tells it; of a phrase, its number of segments, and if they are things.
Families = Sequence[Any]


class Setting(NamedTuple):
    """How a dataset is asked about.

    Attributes:
        protocol: one of `run.PROTOCOLS`.
        question: one of `prompts.OFFICIAL_QUESTIONS`.
        blind: True if a grey picture is shown instead of the right one.
        is_listed: True if every prediction is kept, too, and not only what it is worth.
    """

    protocol: str
    question: str
    blind: bool
    is_listed: bool


def asks_for_list(dataset: str, protocol: str) -> bool:
    """Whether several expressions are asked for at once, in a form that may be chosen."""
    return protocol == "official" and dataset in REFER_DATASETS


def record_of(record: Any) -> Asked:
    """A record of a dataset as it is asked about."""
    if isinstance(record, NarrativeRecord):
        return GroundedPhrases(record)
    return PresentClasses(record) if isinstance(record, ClassRecord) else record


def prepare(gsva: Gsva, setting: Setting, records: Sequence[Any]) -> list[Prepared]:
    """Puts the questions about pictures into words."""
    prepared = []
    for record in map(record_of, records):
        if isinstance(record, GroundedPhrases) and not record.places:
            prepared.append(Prepared(record, line=_unasked(record, setting.is_listed)))
            continue
        request = protocols.prepare(gsva.engine, setting.protocol, record, setting.question)
        prepared.append(Prepared(request, request.shape))
    return prepared


def predict(gsva: Gsva, setting: Setting, requests: Sequence[Request], with_absent: bool, ignored: bool) -> list[dict]:
    """Asks about pictures, and keeps what the answers are worth.

    Args:
        gsva: the model.
        setting: the way it is asked.
        requests: the requests that `prepare` made.
        with_absent: see `protocols.predict`.
        ignored: True if the official protocol takes ignored pixels for the target, as the release does in ReasonSeg.
    """
    pictures = [_picture(request.record, setting.blind) for request in requests]
    answers = protocols.predict(gsva.engine, setting.protocol, requests, pictures, with_absent)
    ignored = ignored and setting.protocol == "official"
    return [_line(*pair, ignored, setting.is_listed) for pair in zip(requests, answers, strict=True)]


def report(
    setting: Setting, lines: Sequence[dict], metrics: Callable[[Setting, Sequence[Outcome], Families], Report]
) -> Report:
    """Numbers of a whole split.

    Args:
        setting: the way it was asked.
        lines: lines of `predict`.
        metrics: metrics of the kind of dataset.

    Returns:
        ``num_targets``, the metrics, ``num_too_long``, and of written answers ``num_missing`` and ``num_surplus``.
        Where ignored pixels were taken for the target, ``lisa_*`` are the metrics without them. ``num_left_out`` are
        phrases of captions that mean nothing in the picture, which are not asked for.
    """
    outcomes, lisa_outcomes = (
        [Outcome(**values) for line in lines for values in line[name]] for name in ("outcomes", "lisa_outcomes")
    )
    lisa = res_metrics(ResTotals.of(lisa_outcomes)) if lisa_outcomes else {}
    counts = {"num_too_long": sum(line["too_long"] for line in lines)}
    if any("left_out" in line for line in lines):
        counts["num_left_out"] = sum(line["left_out"] for line in lines)
    if setting.protocol == "generated":
        counts["num_missing"] = sum(outcome.missing for outcome in outcomes)
        counts["num_surplus"] = sum(line["surplus"] for line in lines)
    return {
        "num_targets": len(outcomes),
        **metrics(setting, outcomes, [name for line in lines for name in line["families"]]),
        **{f"lisa_{name}": value for name, value in lisa.items()},
        **counts,
    }


def _picture(record: Asked, blind: bool) -> np.ndarray:
    """A record's picture, uint8 ``[H, W, 3]``."""
    if blind:
        return np.full((*record.size, 3), _GREY, np.uint8)
    return open_annotated(record.image, record.size)


def _line(request: Request, answer: Prediction, ignored: bool, is_listed: bool) -> dict:
    """What is kept of one picture."""
    record = request.record
    decisions = answer.rejected, answer.missing
    outcomes = compare_masks(answer.masks, record.masks, *decisions, record.ignore)
    lisa_outcomes = []
    if ignored:
        lisa_outcomes, outcomes = outcomes, compare_masks(answer.masks, record.masks | record.ignore, *decisions)
    line = {
        "outcomes": [dataclasses.asdict(outcome) for outcome in outcomes],
        "lisa_outcomes": [dataclasses.asdict(outcome) for outcome in lisa_outcomes],
        "families": record.families or [None] * request.num_targets,
        "surplus": answer.surplus,
        "too_long": request.too_long,
    }
    if isinstance(record, GroundedPhrases):
        line["left_out"] = record.left_out
    return {**line, "predictions": _predictions(record, answer, outcomes)} if is_listed else line


def _unasked(record: GroundedPhrases, is_listed: bool) -> dict:
    """The line of a caption none of whose phrases means anything."""
    nothing = np.zeros(0, bool)
    answer = Prediction(np.zeros((0, *record.size), bool), nothing, nothing, np.zeros(0))
    return _line(Request(record, [], 0, False, (0, 0)), answer, False, is_listed)


def _predictions(record: Asked, answer: Prediction, outcomes: Sequence[Outcome]) -> list[dict]:
    """Every prediction about a picture, as files list it."""
    return [
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


def _absent_metrics(
    setting: Setting, outcomes: Sequence[Outcome], families: Families, metrics: Callable[[GresTotals], Report]
) -> Report:
    """Of a dataset with absent targets; also of each kind of expression."""
    del setting
    result = metrics(GresTotals.of(outcomes))
    for family in sorted({family for family in families if family is not None}):
        chosen = [outcome for outcome, other in zip(outcomes, families, strict=True) if other == family]
        own = grefcoco_metrics(GresTotals.of(chosen))
        result[f"num_targets[{family}]"] = len(chosen)
        result |= {f"{name}[{family}]": own[name] for name in _FAMILY_METRICS if own[name] is not None}
    return result


def _present_metrics(setting: Setting, outcomes: Sequence[Outcome], families: Families) -> Report:
    """Of a dataset in which everything is there."""
    del families
    metrics = res_metrics(ResTotals.of(outcomes))
    if setting.protocol != "official":  # there, this data knows no rejection
        metrics["T_acc"] = grefcoco_metrics(GresTotals.of(outcomes))["T_acc"]
    return metrics


def _class_metrics(setting: Setting, outcomes: Sequence[Outcome], families: Families) -> Report:
    """Of a dataset of classes."""
    del setting
    return semantic_metrics(ClassTotals.of(outcomes, families))


def _narrative_metrics(setting: Setting, outcomes: Sequence[Outcome], families: Families) -> Report:
    """Of a dataset of captions, whose phrases are all there."""
    pairs = zip(outcomes, families, strict=True)
    phrases = (Phrase(outcome.intersection, outcome.union, *family) for outcome, family in pairs)
    metrics = narrative_metrics(NarrativeTotals.of(phrases))
    del metrics["num_left_out"]  # these were not asked for
    if setting.protocol != "official":
        metrics["T_acc"] = grefcoco_metrics(GresTotals.of(outcomes))["T_acc"]
    return metrics


def _task(metrics: Callable, with_absent: bool = False, ignored: bool = False, **options) -> Task:
    """A task whose questions are those of the protocols."""
    return Task(
        prepare,
        functools.partial(predict, with_absent=with_absent, ignored=ignored),
        functools.partial(report, metrics=metrics),
        **options,
    )


# The release evaluates datasets with absent targets in another way (spec gsva f.2).
_GREFCOCO = _task(functools.partial(_absent_metrics, metrics=grefcoco_metrics), with_absent=True)
_REFZOM = _task(functools.partial(_absent_metrics, metrics=refzom_metrics), with_absent=True)
_PRESENT = _task(_present_metrics)
_REASON = _task(_present_metrics, ignored=True)
_NARRATIVES = _task(_narrative_metrics)
_CLASSES = _task(_class_metrics, protocols=("official",))  # all that is asked for is there
_BY_KIND = {"grefcoco": _GREFCOCO, "refzom": _REFZOM}

TASKS: dict[str, Task] = {
    **{name: _BY_KIND.get(name.partition("|")[0], _PRESENT) for name in REFER_DATASETS},
    **dict.fromkeys((*REASONSEG_DATASETS, "ReasonSeg|"), _REASON),
    **dict.fromkeys(NARRATIVE_DATASETS, _NARRATIVES),
    "ade20k|validation": _CLASSES,
    OWN_DATA: _GREFCOCO,
}
