"""Writes scenes in the layout of gRefCOCO, which evaluators read: pictures, instances and expressions."""

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from grounding_jax.data.scenes.backgrounds import SPLITS
from grounding_jax.data.scenes.compose import MAX_OBJECTS, Scene, check_split, photo_scene, scene
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.files import records
from grounding_jax.files.writing import write_json
from grounding_jax.terminal import tracked

ANNOTATIONS = "refer_seg/grefcoco"
PICTURES = "refer_seg/images/mscoco/images/train2014"
REFS_FILE, INSTANCES_FILE = "grefs(unc).json", "instances.json"
# The names under which the layout has our splits.
SPLIT_NAMES = {"train": "train", "val": "val", "test": "testA"}
MAX_SCENES = 10_000_000  # of one split: image ids of a split are a range of this length
MIN_SIZE = 32  # smaller pictures show nothing
_ID_STEP = MAX_OBJECTS + 2  # ids of objects and expressions: image id times this, plus 1, 2, ...
_CATEGORIES = [{"id": k, "name": kind.noun, "supercategory": "thing"} for k, kind in enumerate(KINDS, 1)]
_CATEGORY_IDS = {category["name"]: category["id"] for category in _CATEGORIES}


def write_scenes(out: str | os.PathLike, num: int, seed: int, split: str, size: int = 320) -> None:
    """Writes scenes 0..num-1 of (seed, split) below `out`, as gRefCOCO is laid out (spec gsva g).

    The files are refer_seg/grefcoco/{grefs(unc).json, instances.json} and JPEG pictures in
    refer_seg/images/mscoco/images/train2014. Masks are uncompressed run lengths of the visible pixels. Every
    reference has one sentence and, beyond the public layout, "family" and "absent_family" (of `Expression`).
    Splits already in the folder stay; the same split is replaced. A "test" scene is of split "testA" there.

    Args:
      out: folder, local or gs://; made if missing.
      num: number of scenes, at least 1.
      seed: at least 0.
      split: "train", "val" or "test".
      size: side of the pictures in pixels, at least `MIN_SIZE`.

    Raises:
      ValueError: a bad argument, an `out` that can't be written, or files there that aren't of this layout.
      MissingCutouts, FileNotFoundError: cut-outs or photographs can't be had.
    """
    check_split(split)
    if not 1 <= num <= MAX_SCENES or seed < 0 or size < MIN_SIZE:
        raise ValueError(
            f"num {num}, seed {seed}, size {size}: "
            f"num must be in 1..{MAX_SCENES}, seed at least 0, size at least {MIN_SIZE}"
        )
    root = epath.Path(out)
    with _clear_errors(root):
        (root / ANNOTATIONS).mkdir(parents=True, exist_ok=True)
        (root / PICTURES).mkdir(parents=True, exist_ok=True)
        refs, instances = _read_others(root, split)
    first_id = SPLITS.index(split) * MAX_SCENES + 1
    for index in tracked(range(num), f"{split} scenes"):
        composed = scene(seed, split, index, size)
        with _clear_errors(root):
            image = _write_picture(root / PICTURES, composed.image, first_id + index)
        instances["images"].append(image)
        instances["annotations"] += _annotations(composed, image["id"])
        refs += _references(composed, image, SPLIT_NAMES[split])
    refs.sort(key=lambda ref: ref["ref_id"])  # the same files, whichever split was written first
    instances["images"].sort(key=lambda image: image["id"])
    instances["annotations"].sort(key=lambda annotation: annotation["id"])
    with _clear_errors(root):
        write_json(root / ANNOTATIONS / INSTANCES_FILE, instances)
        write_json(root / ANNOTATIONS / REFS_FILE, refs)
        _remove_pictures(root / PICTURES, range(first_id + num, first_id + MAX_SCENES))


def write_photo_scene(out: str | os.PathLike, photograph: str, seed: int) -> None:
    """Writes one whole photograph with cut-outs in it: photo_scene.jpg in `out`, and photo_scene.json.

    The JSON file has file_name, height, width and expressions: text, family, rejected and segmentation (run
    lengths of all that is meant).
    """
    root = epath.Path(out)
    composed = photo_scene(seed, photograph)
    height, width = composed.image.shape[:2]
    described = []
    for expression in composed.expressions:
        mask = np.zeros((height, width), bool)
        for k in expression.objects:
            mask |= composed.objects[k].mask
        entry = {"text": expression.text, "family": expression.family, "rejected": not expression.objects}
        described.append({**entry, "segmentation": run_lengths(mask)})
    with _clear_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        (root / "photo_scene.jpg").write_bytes(_jpeg(composed.image))
        content = {"file_name": "photo_scene.jpg", "height": height, "width": width, "expressions": described}
        write_json(root / "photo_scene.json", content)


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """bool [H, W] -> uncompressed COCO run lengths: size [H, W], counts down the columns, false first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


@contextlib.contextmanager
def _clear_errors(root: epath.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"can't write scenes to {root}: {error.strerror or error}") from error


def _read_others(root: epath.Path, split: str) -> tuple[list[dict], dict[str, list]]:
    """What the folder has of the other splits: references and instances."""
    refs_file, instances_file = root / ANNOTATIONS / REFS_FILE, root / ANNOTATIONS / INSTANCES_FILE
    if not refs_file.exists() and not instances_file.exists():
        return [], {"images": [], "annotations": [], "categories": _CATEGORIES}
    try:
        refs = records.read(refs_file, list[dict[str, Any]])
        instances = records.read(instances_file, dict[str, list[dict[str, Any]]])
        if instances["categories"] != _CATEGORIES:
            raise ValueError("other categories")
        others = [ref for ref in refs if ref["split"] != SPLIT_NAMES[split]]
        kept = {
            "images": [image for image in instances["images"] if _split(image["id"]) != split],
            "annotations": [thing for thing in instances["annotations"] if _split(thing["image_id"]) != split],
            "categories": _CATEGORIES,
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{root / ANNOTATIONS} has files of something else ({error}): choose another folder"
        ) from error
    return others, kept


def _split(image_id: int) -> str:
    return SPLITS[(image_id - 1) // MAX_SCENES]


def _file_name(image_id: int) -> str:
    return f"COCO_train2014_{image_id:012d}.jpg"


def _write_picture(folder: epath.Path, image: np.ndarray, image_id: int) -> dict[str, Any]:
    (folder / _file_name(image_id)).write_bytes(_jpeg(image))
    height, width = image.shape[:2]
    return {"id": image_id, "file_name": _file_name(image_id), "height": height, "width": width}


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _remove_pictures(folder: epath.Path, image_ids: range) -> None:
    """Removes what an earlier, longer writing of the split has left."""
    for path in folder.glob("COCO_train2014_*.jpg"):
        if int(path.stem.rsplit("_", 1)[1]) in image_ids:
            path.unlink()


def _annotations(composed: Scene, image_id: int) -> list[dict[str, Any]]:
    annotations = []
    for k, thing in enumerate(composed.objects, 1):
        left, top, right, bottom = thing.box
        annotations.append(
            {
                "id": image_id * _ID_STEP + k,
                "image_id": image_id,
                "category_id": _CATEGORY_IDS[thing.kind],
                "segmentation": run_lengths(thing.mask),
                "bbox": [left, top, right - left, bottom - top],
                "area": thing.area,
                "iscrowd": 0,
            }
        )
    return annotations


def _references(composed: Scene, image: dict[str, Any], split: str) -> list[dict[str, Any]]:
    references = []
    for j, expression in enumerate(composed.expressions, 1):
        number = image["id"] * _ID_STEP + j
        text, absent = expression.text, not expression.objects
        sentence = {"sent_id": number, "sent": text, "raw": text, "tokens": text.split()}
        reference = {
            "ref_id": number,
            "ann_id": [-1] if absent else [image["id"] * _ID_STEP + k + 1 for k in expression.objects],
            "category_id": [-1] if absent else [_CATEGORY_IDS[composed.objects[k].kind] for k in expression.objects],
            "image_id": image["id"],
            "split": split,
            "file_name": image["file_name"],
            "sentences": [sentence],
            "sent_ids": [number],
            "no_target": absent,
            "family": expression.family,
            "absent_family": expression.absent_family,
        }
        references.append(reference)
    return references
