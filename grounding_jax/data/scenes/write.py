"""Writes scenes in the layout of gRefCOCO, which evaluators read: pictures, instances and expressions."""

import os
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.data.scenes.compose import Scene, photo_scene, scene
from grounding_jax.data.scenes.layout import (
    PICTURES,
    category_id,
    check_request,
    clear_errors,
    encode_jpeg,
    instance_entries,
    instance_id,
    picture_entry,
    read_others,
    reference_entry,
    remove_others,
    run_lengths,
    split_ids,
    write_refer,
)
from grounding_jax.files.writing import write_json
from grounding_jax.terminal import tracked

ANNOTATIONS = "refer_seg/grefcoco"
REFS_FILE = "grefs(unc).json"
# The names under which the layout has our splits.
SPLIT_NAMES = {"train": "train", "val": "val", "test": "testA"}


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
      size: side of the pictures in pixels, `MIN_SIZE` to `MAX_SIZE`.

    Raises:
      ValueError: a bad argument, an `out` that can't be written, or files there that aren't of this layout.
      MissingCutouts, FileNotFoundError: cut-outs or photographs can't be had.
    """
    check_request(num, seed, split, size)
    root, ids = epath.Path(out), split_ids(split)
    with clear_errors(root):
        (root / ANNOTATIONS).mkdir(parents=True, exist_ok=True)
        (root / PICTURES).mkdir(parents=True, exist_ok=True)
        refs, instances = read_others(root / ANNOTATIONS, REFS_FILE, [SPLIT_NAMES[split]], ids)
    for index in tracked(range(num), f"{split} scenes"):
        composed = scene(seed, split, index, size)
        picture = picture_entry(ids[index], size)
        with clear_errors(root):
            (root / PICTURES / picture["file_name"]).write_bytes(encode_jpeg(composed.image))
        instances["images"].append(picture)
        instances["annotations"] += instance_entries(composed.objects, picture["id"])
        refs += _references(composed, picture, SPLIT_NAMES[split])
    with clear_errors(root):
        write_refer(root / ANNOTATIONS, REFS_FILE, refs, instances)
        remove_others(root / PICTURES, ".jpg", ids, ids[:num])


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
    with clear_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        (root / "photo_scene.jpg").write_bytes(encode_jpeg(composed.image))
        content = {"file_name": "photo_scene.jpg", "height": height, "width": width, "expressions": described}
        write_json(root / "photo_scene.json", content)


def _references(composed: Scene, picture: dict[str, Any], split: str) -> list[dict[str, Any]]:
    references = []
    for j, expression in enumerate(composed.expressions):
        absent = not expression.objects
        meant = {
            "ann_id": [-1] if absent else [instance_id(picture["id"], k) for k in expression.objects],
            "category_id": [-1] if absent else [category_id(composed.objects[k]) for k in expression.objects],
        }
        entry = reference_entry(expression, instance_id(picture["id"], j), picture, split, meant)
        family = {"family": expression.family, "absent_family": expression.absent_family}
        references.append({**entry, "no_target": absent, **family})
    return references
