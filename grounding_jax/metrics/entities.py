"""Average precision and recall of entity masks, whatever they are masks of: COCO's evaluator with one category."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from grounding_jax.files.masks import mask_record

# In the order of COCOeval.stats.
_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR@1", "AR@10", "AR@100", "ARs", "ARm", "ARl")
_UNDEFINED = -1


def entity_metrics(
    images: Sequence[Mapping[str, Any]],
    targets: Sequence[Mapping[str, Any]],
    predicted: Sequence[Mapping[str, Any]],
) -> dict[str, float | None]:
    """Class-agnostic AP and AR of masks, as fractions (spec gella e); None where COCO's evaluator has -1.

    They are not sums over pictures: everything that is to be evaluated comes in one call. For EntitySeg's AP^e no two
    predicted masks of a picture may overlap.

    Args:
        images: COCO's: {"id", "height", "width"}.
        targets: COCO's annotations: {"image_id", "segmentation", "area", "iscrowd"}; a category is not looked at.
        predicted: COCO's results: {"image_id", "segmentation", "score"}, likewise.

    Returns:
        AP over the IoUs 0.50, 0.55 ... 0.95, AP50 and AP75 at one of them; AR with 1, 10 and 100 masks per picture;
        and both for small, medium and large ones, by the ``area`` of the target.

    Raises ValueError if a mask is of a picture that is not in `images`, or of another size than its picture.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # the evaluator prints as it goes
        truth, results = _indexed(images, targets, "target"), _indexed(images, predicted, "predicted mask")
        for result in results.anns.values():
            result["area"] = float(coco_mask.area(results.annToRLE(result)))
        evaluator = COCOeval(truth, results, "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    values = evaluator.stats.tolist()
    return {name: None if value == _UNDEFINED else value for name, value in zip(_NAMES, values, strict=True)}


def coco_entities(ids: np.ndarray, segments: Sequence[Mapping[str, Any]], image_id: int) -> list[dict[str, Any]]:
    """The entities of a COCO panoptic picture, as `entity_metrics` takes targets: every segment but crowds.

    Their ``area`` is that of EntitySeg's conversion of COCO: (y2 - y1) (x2 - x1) between the outermost pixels. It only
    decides which of them are small, medium and large (spec gella e).

    Args:
        ids: int [H, W], the segment of each pixel.
        segments: COCO's ``segments_info``: {"id", "iscrowd"}.
    """
    entities = []
    for segment in segments:
        if not segment["iscrowd"]:
            record = mask_record(ids == segment["id"])
            _, _, width, height = record["bbox"]
            area = max(height - 1, 0) * max(width - 1, 0)
            entities.append({**record, "image_id": image_id, "iscrowd": 0, "area": area})
    return entities


def _indexed(images: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], what: str) -> COCO:
    """COCO's index of copies of some annotations, all of category 1 and numbered from 1: 0 is "no match" to it."""
    sizes = {image["id"]: [image["height"], image["width"]] for image in images}
    for annotation in annotations:
        picture, mask = annotation["image_id"], annotation["segmentation"]
        if picture not in sizes:
            raise ValueError(f"a {what} is of picture {picture}, which is not among the images")
        if isinstance(mask, Mapping) and list(mask["size"]) != sizes[picture]:
            raise ValueError(f"a {what} of picture {picture} has size {list(mask['size'])}, not {sizes[picture]}")
    index = COCO()
    index.dataset = {
        "images": list(images),
        "categories": [{"id": 1}],
        "annotations": [
            {"iscrowd": 0, **annotation, "id": number, "category_id": 1}
            for number, annotation in enumerate(annotations, start=1)
        ],
    }
    index.createIndex()
    return index
