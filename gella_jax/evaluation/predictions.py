"""Every single prediction of an evaluation as JSON, beside the target that it is measured against.

Targets are phrases, expressions, or the true segments of a picture, in the order of the dataset; what is predicted of
segments may match none of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco

from gella_jax.answers import Noun, Reference
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.sources.narratives import NarrativeRecord
from grounding_jax.data.sources.panoptic import SegmentedPicture
from grounding_jax.data.sources.refer import Record
from grounding_jax.files.masks import mask_record
from grounding_jax.metrics.narrative import Phrase
from grounding_jax.metrics.outcomes import Outcome
from grounding_jax.metrics.panoptic import PanopticSegments, match_segments

_FOUND = 0.5  # IoU from which a mask is that of an entity, the least that average precision looks at


def targets_of(record: Any) -> tuple[Sequence[str], np.ndarray]:
    """What a record of any dataset asks for: n names, and masks bool ``[n, H, W]``."""
    if isinstance(record, Record | NarrativeRecord):
        return record.raw_expressions, record.masks
    entities = record.entities
    return entities.names, entities.masks


def of_narrative(
    record: NarrativeRecord,
    entities: Entities,
    nouns: Sequence[Noun | None],
    phrases: Sequence[Phrase],
    answer: str | None,
) -> list[dict]:
    """A prediction for each phrase.

    Args:
        record: the caption.
        entities: those that the model got.
        nouns: for each phrase the noun that it was matched with; None if there is none.
        phrases: worth of each.
        answer: text that the model wrote, if it did.
    """
    more = {"caption": record.caption, **({} if answer is None else {"answer": answer})}
    return [
        _prediction(
            record,
            text,
            np.zeros(record.size, bool) if noun is None else noun.mask,
            0.0 if noun is None else noun.score,
            (j, phrases[j].iou) if record.segment_ids[j] else (j, None),
            segment_ids=record.segment_ids[j],
            mask_ids=[] if noun is None else [entities.ids[place] for place in noun.masks],
            missing=noun is None,
            **more,
        )
        for j, (text, noun) in enumerate(zip(record.raw_expressions, nouns, strict=True))
    ]


def of_expressions(
    record: Record, entities: Entities, references: Sequence[Reference | None], outcomes: Sequence[Outcome]
) -> list[dict]:
    """A prediction for each expression; arguments as of `of_narrative`, None for what was not asked."""
    predictions = []
    for j, (one, outcome) in enumerate(zip(references, outcomes, strict=True)):
        place = None if one is None else one.place
        predictions.append(
            _prediction(
                record,
                record.raw_expressions[j],
                np.zeros(record.size, bool) if one is None else one.mask,
                0.0 if one is None else one.score,
                (j, outcome.iou if outcome.union else 1.0),  # nothing where nothing is true, as mIoU counts it
                instance_ids=None if record.instance_ids is None else record.instance_ids[j],
                mask_ids=[] if place is None else [entities.ids[place]],
                missing=one is None,
                **({} if one is None else {"answer": one.text, "nouns": one.nouns}),
            )
        )
    return predictions


def of_segments(
    record: SegmentedPicture, ids: np.ndarray, segments: Sequence[Mapping[str, Any]], names: Mapping[int, str]
) -> list[dict]:
    """A prediction for each segment.

    Args:
        record: the true segmentation.
        ids: int ``[H, W]``, the predicted segment of each pixel.
        segments: for each, its "id", "category_id" and "score".
        names: names of the categories.
    """
    matches = match_segments(PanopticSegments(ids, segments), PanopticSegments(record.id_map, record.segments))
    entities = [segment["id"] for segment in record.segments if not segment.get("iscrowd")]
    targets = {found: (entities.index(true), iou) for true, (found, iou) in matches.items()}
    return [
        _prediction(
            record,
            names[segment["category_id"]],
            ids == segment["id"],
            segment["score"],
            targets.get(segment["id"], (None, None)),
            category_id=segment["category_id"],
        )
        for segment in segments
    ]


def of_entities(record: Any, found: Entities, predicted: Sequence[dict], targets: Sequence[dict]) -> list[dict]:
    """A prediction for each mask; it is matched with the entity that it shows best, better masks first.

    Args:
        record: the picture.
        found: the masks.
        predicted, targets: COCO's results and annotations of the picture.
    """
    overlaps = np.zeros((len(predicted), len(targets)))
    if predicted and targets:
        overlaps = coco.iou(
            *([one["segmentation"] for one in some] for some in (predicted, targets)), [0] * len(targets)
        )
    matched, free = {}, set(range(len(targets)))
    for k in sorted(range(len(predicted)), key=lambda k: -predicted[k]["score"]):
        best = max(free, key=lambda j: overlaps[k, j], default=None)
        if best is not None and overlaps[k, best] >= _FOUND:
            matched[k] = best, float(overlaps[k, best])
            free.remove(best)
    return [
        _prediction(record, found.names[k], mask, predicted[k]["score"], matched.get(k, (None, None)))
        for k, mask in enumerate(found.masks)
    ]


def _prediction(
    record: Any, text: str, mask: np.ndarray, score: float, measured: tuple[int | None, float | None], **more: Any
) -> dict:
    """What files list of a mask, and against which target it is measured: the target's place and the IoU."""
    target, iou = measured
    return {
        "image": record.image.name,
        "image_id": record.image_id,
        "expression": text,
        "target": target,
        "iou": None if iou is None or math.isnan(iou) else iou,
        "score": float(score),
        **mask_record(mask),
        **more,
    }
