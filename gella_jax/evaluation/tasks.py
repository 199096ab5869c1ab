"""How a GELLA is asked about the pictures of a dataset, and what is kept of its answers, one line a picture.

official: as the benchmark does. For narratives the nouns are given and, as its baseline does, chosen by whether they
mean one segment or several; for expressions and categories as in the paper (spec gella D3 - D5).
guided: the nouns are given, an expression is its own noun, and the model alone decides what they mean.
generated: the model names the nouns; those of a narrative are matched with its phrases by their words, in order.

Nothing is truncated: what is longer than the model's context is counted, and has empty masks.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from gella_jax import prompts
from gella_jax.engine import LeftOut
from gella_jax.evaluation import predictions
from gella_jax.predict import Gella, Grounding, Noun, Reference, Request
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.sources.entityseg import COCO_ENTITY_DATASETS, ENTITYSEG_DATASETS, CocoEntityRecord
from grounding_jax.data.sources.narratives import NARRATIVE_DATASETS, NarrativeRecord
from grounding_jax.data.sources.panoptic import PANOPTIC_DATASETS
from grounding_jax.data.sources.panoptic_classes import Category
from grounding_jax.data.sources.refer import PRESENT_DATASETS, Record
from grounding_jax.evaluation.run import Prepared, Task
from grounding_jax.files.masks import mask_record
from grounding_jax.files.pictures import open_annotated
from grounding_jax.language.batching import pad_batch
from grounding_jax.metrics.entities import coco_entities, entity_metrics
from grounding_jax.metrics.narrative import NarrativeTotals, Phrase, compare_phrase, narrative_metrics
from grounding_jax.metrics.outcomes import Outcome, compare_masks
from grounding_jax.metrics.panoptic import PanopticSegments, PanopticTotals, compare_panoptic, panoptic_metrics
from grounding_jax.metrics.res import ResTotals, refcoco_metrics
from grounding_jax.metrics.words import WordTotals, normalize, word_metrics


class Item(NamedTuple):
    """A record of a dataset, its picture uint8 ``[H, W, 3]``, and the masks that the model gets, perhaps none."""

    record: Any
    image: np.ndarray
    entities: Entities

    def request(self, caption: str, nouns: Sequence[str] | None = None) -> Request:
        """A question about the picture."""
        return Request(self.image, caption, self.entities, nouns, str(self.record.image_id))


class Setting(NamedTuple):
    """How a dataset is asked about.

    Attributes:
        protocol: one of `PROTOCOLS`.
        output_masks: see `Gella.ground`.
        categories: categories of the dataset, where it has any.
        entities: ``(records, pictures) -> [Entities, ...]``: the masks that the model gets, perhaps none.
        is_listed: True if every prediction is kept, too, and not only what it is worth.
    """

    protocol: str
    output_masks: str
    categories: tuple[Category, ...]
    entities: Callable[[Sequence[Any], Sequence[np.ndarray]], list[Entities]]
    is_listed: bool = False


def predict_narratives(gella: Gella, setting: Setting, items: Sequence[Item]) -> list[dict]:
    """The phrases of captions against their segments, and the nouns against the phrases."""
    given = setting.protocol != "generated"
    requests = [item.request(item.record.caption, item.record.raw_expressions if given else None) for item in items]
    plurals = [item.record.plural for item in items] if setting.protocol == "official" else None
    groundings = gella.ground_many(requests, output_masks=setting.output_masks, plurals=plurals)
    lines = []
    for item, grounding in zip(items, groundings, strict=True):
        found = grounding.nouns if given else match_nouns(grounding.nouns, item.record.raw_expressions)
        line = {**_narrative_line(setting, item, found, grounding.text), **_counts(grounding)}
        if not given:
            words = WordTotals.of_caption([noun.text for noun in grounding.nouns], item.record.raw_expressions)
            line["words"] = dataclasses.asdict(words)
        lines.append(line)
    return lines


def match_nouns(nouns: Sequence[Noun], phrases: Sequence[str]) -> list[Noun | None]:
    """For each phrase the first noun of the same words that no earlier phrase has; None where there is none."""
    waiting = collections.defaultdict(collections.deque)
    for noun in nouns:
        waiting[normalize(noun.text)].append(noun)
    return [queue.popleft() if (queue := waiting[normalize(phrase)]) else None for phrase in phrases]


def _narrative_line(setting: Setting, item: Item, nouns: Sequence[Noun | None], answer: str) -> dict:
    """What the nouns of an answer, one for each phrase, are worth."""
    record: NarrativeRecord = item.record
    isthing = {segment["id"]: bool(segment["isthing"]) for segment in record.segments}
    phrases = []
    for noun, ids in zip(nouns, record.segment_ids, strict=True):
        found = np.zeros((0, *record.size), bool) if noun is None else noun.mask[None]
        truth = record.id_map == np.array(ids, np.int32)[:, None, None]
        phrases.append(compare_phrase(found, truth, [isthing[number] for number in ids]))
    line = {
        "phrases": [dataclasses.asdict(phrase) for phrase in phrases],
        "missing": sum(noun is None for noun in nouns),
        "unplaced": sum(span is None for span in record.spans),
    }
    if setting.is_listed:
        written = answer if setting.protocol == "generated" else None
        line["predictions"] = predictions.of_narrative(record, item.entities, nouns, phrases, written)
        line["measured"] = sum(record.grounded)
    return line


def empty_narrative(setting: Setting, item: Item) -> dict:
    """The line of a caption that was not asked about."""
    line = _narrative_line(setting, item, [None] * len(item.record.raw_expressions), "")
    if setting.protocol == "generated":
        line["words"] = dataclasses.asdict(WordTotals.of_caption([], item.record.raw_expressions))
    return line


def report_narratives(setting: Setting, lines: Sequence[dict]) -> dict:
    """Average recall, and of generated nouns their words."""
    phrases = [Phrase(**values) for line in lines for values in line["phrases"]]
    report = {"num_targets": len(phrases), **narrative_metrics(NarrativeTotals.of(phrases))}
    report["num_unplaced"] = sum(line["unplaced"] for line in lines)
    if setting.protocol == "generated":
        report |= word_metrics(sum((WordTotals(**line["words"]) for line in lines), WordTotals()))
        report["num_missing"] = sum(line["missing"] for line in lines)
    return {**report, **_left_out_of(lines)}


def predict_expressions(gella: Gella, setting: Setting, items: Sequence[Item]) -> list[dict]:
    """Every expression about a picture and the one mask that it means; as many at once as there are pictures."""
    requests = [
        (place, item.request(text, None if setting.protocol != "guided" else [prompts.clean_noun(text)]))
        for place, item in enumerate(items)
        for text in item.record.expressions
    ]
    found: list[list[Reference]] = [[] for _ in items]
    for start in range(0, len(requests), len(items)):
        places, chunk = zip(*requests[start : start + len(items)], strict=True)
        padded = pad_batch(chunk, len(items))  # another number of rows would be another program
        for place, reference in zip(places, gella.refer_many(padded, setting.output_masks), strict=False):
            found[place].append(reference)
    lines = []
    for item, references in zip(items, found, strict=True):
        line = _expressions_line(setting, item, references)
        unfinished = sum(not reference.finished for reference in references)
        lines.append({**line, **_counts(references[0]), "unfinished": unfinished} if references else line)
    return lines


def _expressions_line(setting: Setting, item: Item, references: Sequence[Reference | None]) -> dict:
    """What the answers about a picture's expressions are worth."""
    record = item.record
    masks = [np.zeros(record.size, bool) if one is None else one.mask for one in references]
    outcomes = compare_masks(np.array(masks, bool).reshape(-1, *record.size), record.masks)
    line = {"outcomes": [dataclasses.asdict(outcome) for outcome in outcomes]}
    if setting.is_listed:
        line["predictions"] = predictions.of_expressions(record, item.entities, references, outcomes)
        line["measured"] = len(outcomes)
    return line


def empty_expressions(setting: Setting, item: Item) -> dict:
    """The line of a picture that was not asked about."""
    return _expressions_line(setting, item, [None] * len(item.record.expressions))


def report_expressions(setting: Setting, lines: Sequence[dict]) -> dict:
    """cIoU, mIoU and Pr@X."""
    del setting
    outcomes = [Outcome(**values) for line in lines for values in line["outcomes"]]
    return {"num_targets": len(outcomes), **refcoco_metrics(ResTotals.of(outcomes)), **_left_out_of(lines)}


def predict_categories(gella: Gella, setting: Setting, items: Sequence[Item]) -> list[dict]:
    """The panoptic segmentations of pictures against the true ones."""
    maps = gella.panoptic_many([item.request("") for item in items], setting.categories, setting.output_masks)
    lines = []
    for item, one in zip(items, maps, strict=True):
        segments = [{"id": s.id, "category_id": s.category.id, "score": s.score} for s in one.segments]
        lines.append({**_panoptic_line(item, one.ids, segments, setting), **_left_out(one.left_out)})
    return lines


def _panoptic_line(item: Item, ids: np.ndarray, segments: list[dict], setting: Setting) -> dict:
    record = item.record
    categories = [{"id": category.id} for category in setting.categories]
    truth = PanopticSegments(record.id_map, record.segments)
    totals = compare_panoptic(PanopticSegments(ids, segments), truth, categories, record.image_id)
    counters = {field.name: dict(getattr(totals, field.name)) for field in dataclasses.fields(totals)}
    line = {"totals": counters, "segments": sum(not segment.get("iscrowd") for segment in record.segments)}
    if setting.is_listed:
        names = {category.id: category.name for category in setting.categories}
        line["predictions"] = predictions.of_segments(record, ids, segments, names)
        line["measured"] = line["segments"]
    return line


def empty_categories(setting: Setting, item: Item) -> dict:
    """The line of a picture that was not asked about."""
    return _panoptic_line(item, np.zeros(item.record.size, np.int32), [], setting)


def report_categories(setting: Setting, lines: Sequence[dict]) -> dict:
    """PQ, SQ and RQ."""
    totals = PanopticTotals()
    for line in lines:  # JSON has no numbers for keys
        counters = {
            name: collections.Counter({int(key): value for key, value in counter.items()})
            for name, counter in line["totals"].items()
        }
        totals += PanopticTotals(**counters)
    categories = [category._asdict() for category in setting.categories]
    num_targets = sum(line["segments"] for line in lines)
    return {"num_targets": num_targets, **panoptic_metrics(totals, categories), **_left_out_of(lines)}


def predict_entities(gella: Gella | None, setting: Setting, items: Sequence[Item]) -> list[dict]:
    """What the model makes of the masks, without overlaps, against the true ones; or the masks that were put in."""
    if setting.output_masks == "input":
        return [_entities_line(setting, item, item.entities) for item in items]
    found = gella.entities_many([item.request("") for item in items])
    return [
        {**_entities_line(setting, item, one), **_left_out(rest)}
        for item, (one, rest) in zip(items, found, strict=True)
    ]


def _entities_line(setting: Setting, item: Item, found: Entities) -> dict:
    record = item.record
    scores = np.ones(len(found.masks)) if found.scores is None else found.scores
    predicted = [
        {"image_id": record.image_id, "segmentation": mask_record(mask)["segmentation"], "score": float(score)}
        for mask, score in zip(found.masks, scores, strict=True)
    ]
    if isinstance(record, CocoEntityRecord):
        targets = coco_entities(record.id_map, record.segments, record.image_id)
    else:
        own = zip(record.entities.masks, record.areas, strict=True)
        targets = [{**mask_record(mask), "image_id": record.image_id, "iscrowd": 0, "area": area} for mask, area in own]
    image = {"id": record.image_id, "height": record.size[0], "width": record.size[1]}
    line = {"image": image, "targets": targets, "predicted": predicted}
    if setting.is_listed:
        line["predictions"] = predictions.of_entities(record, found, predicted, targets)
        line["measured"] = len(targets)
    return line


def empty_entities(setting: Setting, item: Item) -> dict:
    """The line of a picture that was not asked about."""
    return _entities_line(setting, item, item.entities)


def report_entities(setting: Setting, lines: Sequence[dict]) -> dict:
    """Class-agnostic AP and AR."""
    del setting
    targets, predicted = ([one for line in lines for one in line[name]] for name in ("targets", "predicted"))
    metrics = entity_metrics([line["image"] for line in lines], targets, predicted)
    return {"num_targets": len(targets), "num_predicted": len(predicted), **metrics, **_left_out_of(lines)}


def prepare(
    gella: Gella | None,
    setting: Setting,
    records: Sequence[Any],
    *,
    texts: Callable[[Setting, Any], list[tuple[str, Sequence[str] | None]]],
    empty: Callable[[Setting, Item], dict],
) -> list[Prepared]:
    """Opens pictures and their masks, and finds out whether anything can be asked about them.

    Args:
        gella: the model; None where nothing is asked.
        setting: the way it is asked.
        records: records of the dataset.
        texts: the captions about the picture, each with its nouns where they are given.
        empty: the line of a picture that can't be asked about: it is "without_masks", a text is "wordless", or a
            conversation "too_long".
    """
    images = [open_annotated(record.image, record.size) for record in records]
    prepared = []
    for record, image, entities in zip(records, images, setting.entities(records, images), strict=True):
        item = Item(record, image, entities)
        problem = _obstacle(gella, texts(setting, record)) if len(entities.masks) else "without_masks"
        prepared.append(Prepared(item, line={**empty(setting, item), problem: 1} if problem else None))
    return prepared


def _obstacle(gella: Gella | None, texts: Sequence[tuple[str, Sequence[str] | None]]) -> str | None:
    if not all(map(prompts.clean_noun, (text for caption, nouns in texts for text in (caption, *(nouns or ()))))):
        return "wordless"
    return None if all(gella.fits(*pair) for pair in texts) else "too_long"


def narrative_texts(setting: Setting, record: NarrativeRecord) -> list[tuple[str, Sequence[str] | None]]:
    """The caption, and its phrases where they are given."""
    return [(record.caption, None if setting.protocol == "generated" else record.raw_expressions)]


def expression_texts(setting: Setting, record: Record) -> list[tuple[str, Sequence[str] | None]]:
    """An expression is its own noun where it is given, or the model names none."""
    del setting
    return [(text, [prompts.clean_noun(text)]) for text in record.expressions]


def no_texts(setting: Setting, record: Any) -> list[tuple[str, Sequence[str] | None]]:
    """Categories and entities are asked for without a caption."""
    del setting, record
    return []


_OFFICIAL = ("official",)
_NARRATIVES = Task(
    functools.partial(prepare, texts=narrative_texts, empty=empty_narrative), predict_narratives, report_narratives
)
_EXPRESSIONS = Task(
    functools.partial(prepare, texts=expression_texts, empty=empty_expressions), predict_expressions, report_expressions
)
_CATEGORIES = Task(
    functools.partial(prepare, texts=no_texts, empty=empty_categories), predict_categories, report_categories, _OFFICIAL
)
_ENTITIES = Task(
    functools.partial(prepare, texts=no_texts, empty=empty_entities), predict_entities, report_entities, _OFFICIAL
)

TASKS: dict[str, Task] = {
    **dict.fromkeys(NARRATIVE_DATASETS, _NARRATIVES),
    **dict.fromkeys(PRESENT_DATASETS, _EXPRESSIONS),
    **dict.fromkeys(PANOPTIC_DATASETS, _CATEGORIES),
    **dict.fromkeys((*ENTITYSEG_DATASETS, *COCO_ENTITY_DATASETS), _ENTITIES),
}


def measures_masks(dataset: str) -> bool:
    """Whether masks themselves are measured, and not what is said about them."""
    return TASKS.get(dataset) is _ENTITIES


def _left_out_of(lines: Sequence[dict]) -> dict[str, int]:
    """What was left out of a whole split."""
    names = ("without_masks", "too_long", "wordless", "hidden", "surplus", "unfinished")
    return {f"num_{name}": sum(line.get(name, 0) for line in lines) for name in names}


def _counts(answer: Grounding | Reference) -> dict[str, int]:
    """What is counted of every answer."""
    return {**_left_out(answer.left_out), "unfinished": int(not answer.finished)}


def _left_out(left_out: LeftOut) -> dict[str, int]:
    return {reason: len(left_out.get(reason, ())) for reason in ("hidden", "surplus")}
