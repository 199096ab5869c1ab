"""Writes narrated scenes in the layouts of COCO panoptic, PNG and RefCOCO, which GELLA is trained and evaluated on."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.data.scenes.backgrounds import SPLITS
from grounding_jax.data.scenes.layout import (
    PICTURES,
    category_id,
    check_request,
    clear_errors,
    clear_owner,
    encode_jpeg,
    instance_entries,
    instance_id,
    picture_entry,
    read_others,
    reference_entry,
    remove_others,
    split_ids,
    write_refer,
)
from grounding_jax.data.scenes.narrated import CATEGORIES, NarratedScene, narrated_scene
from grounding_jax.data.scenes.narratives import Narrative
from grounding_jax.data.sources.panoptic import PanopticFiles, PanopticMap, coco_content, coco_entries
from grounding_jax.files.id_maps import encode_id_map
from grounding_jax.files.writing import write_json
from grounding_jax.terminal import tracked

ANNOTATIONS, REFCOCO = "coco/annotations", "refer_seg/refcoco"
REFS_FILE = "refs(unc).json"
_REFER_SPLITS = {"train2017": "train", "val2017": "val"}
_PRESENT = ("name", "place", "size")  # families of expressions that mean one object, as all of RefCOCO's do


def write_narrated_scenes(out: str | os.PathLike, num: int, seed: int, split: str, size: int = 320) -> tuple[str, ...]:
    """Writes narrated scenes 0..num-1 of (seed, split) below `out`, as COCO, PNG and RefCOCO are laid out.

    Every split is written as val2017, whatever it is called: "panoptic|val2017", "coco_entity|val2017", "png|val2017"
    and "refcoco|unc|val" read it. Split train is also written as train2017, for training. What val2017 was before is
    replaced, with two exceptions: train leaves val or test there, and these don't replace each other, so that a folder
    may have train and one other split, and nobody takes one for another.

    Phrases that mean nothing in the picture are nouns without segments. RefCOCO has the expressions that mean one
    object, and a picture of which there is none is not in it; the instances are all of each picture. Beyond the public
    layouts, phrases and references have "family" (of `Phrase` and `Expression`).

    Args:
      out: folder, local or gs://; made if missing.
      num: number of scenes, at least 1.
      seed: at least 0.
      split: "train", "val" or "test".
      size: side of the pictures in pixels, `MIN_SIZE` to `MAX_SIZE`.

    Returns:
      The names that the scenes are there under: "val2017", "train2017" or both.

    Raises:
      ValueError: a bad argument, an `out` that can't be written, or files there of another split or of something else.
      MissingCutouts, FileNotFoundError: cut-outs or photographs can't be had.
    """
    check_request(num, seed, split, size)
    root, ids = epath.Path(out), split_ids(split, narrated=True)
    with clear_errors(root):
        names = _names(root, split)
        refer_splits = [_REFER_SPLITS[name] for name in names]
        refs, instances = read_others(root / REFCOCO, REFS_FILE, refer_splits, ids)
        for folder in (root / REFCOCO, root / PICTURES, *_pictures(root, names), *_labels(root, names)):
            folder.mkdir(parents=True, exist_ok=True)
    images, annotations, narratives = [], [], []
    for index in tracked(range(num), f"{split} scenes"):
        composed, picture = narrated_scene(seed, split, index, size), picture_entry(ids[index], size)
        with clear_errors(root):
            image, annotation = _write_pictures(root, names, composed, picture)
        images.append(image)
        annotations.append(annotation)
        narratives.append(_narrative(composed.narrative, picture["id"]))
        instances["images"].append(picture)
        instances["annotations"] += instance_entries(composed.things, picture["id"])
        refs += [reference for name in refer_splits for reference in _references(composed, picture, name)]
    content = coco_content(images, annotations, CATEGORIES)
    with clear_errors(root):
        for name in names:
            write_json(root / ANNOTATIONS / f"panoptic_{name}.json", content)
            write_json(root / ANNOTATIONS / f"png_coco_{name}.json", narratives)
        write_refer(root / REFCOCO, REFS_FILE, refs, instances)
        _remove_stale(root, names, split, num)
    return names


def _pictures(root: epath.Path, names: Sequence[str]) -> list[epath.Path]:
    return [root / "coco" / name for name in names]


def _labels(root: epath.Path, names: Sequence[str]) -> list[epath.Path]:
    return [root / ANNOTATIONS / f"panoptic_{name}" for name in names]


def _names(root: epath.Path, split: str) -> tuple[str, ...]:
    """The names that a split is written under; raises ValueError if a folder has something else under one."""
    held = {name: _held_split(root, name) for name in _REFER_SPLITS}
    if split == "train":
        return ("train2017", "val2017") if held["val2017"] in (None, "train") else ("train2017",)
    if held["val2017"] not in (None, "train", split):
        raise ValueError(f"{root} has split {held['val2017']} as val2017: write split {split} to another folder")
    return ("val2017",)


def _held_split(root: epath.Path, name: str) -> str | None:
    """The split that a folder has under a name, if any; raises ValueError if it has something else there."""
    if not any((root / ANNOTATIONS / f"{kind}_{name}.json").exists() for kind in ("panoptic", "png_coco")):
        return None
    with clear_owner(root / ANNOTATIONS):
        files = PanopticFiles(root, name)
        held = [split for split in SPLITS if all(n in split_ids(split, narrated=True) for n in files.image_ids)]
        if files.categories != CATEGORIES or len(held) != 1:
            raise ValueError(f"other categories or pictures in {files.file.name}")
    return held[0]


def _write_pictures(
    root: epath.Path, names: Sequence[str], composed: NarratedScene, picture: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes a picture wherever it belongs, and its PNG; what COCO's json tells of them. Entity k is segment k + 1."""
    ids = np.zeros(composed.image.shape[:2], np.int32)
    for number, entity in enumerate(composed.entities, 1):
        ids[entity.mask] = number
    stem, category_ids = f"{picture['id']:012d}", dict(enumerate(composed.category_ids, 1))
    entries = coco_entries(PanopticMap(picture["id"], f"{stem}.jpg", ids, category_ids), f"{stem}.png", CATEGORIES)
    jpeg, png = encode_jpeg(composed.image), encode_id_map(ids)
    (root / PICTURES / picture["file_name"]).write_bytes(jpeg)
    for pictures, labels in zip(_pictures(root, names), _labels(root, names), strict=True):
        (pictures / f"{stem}.jpg").write_bytes(jpeg)
        (labels / f"{stem}.png").write_bytes(png)
    return entries


def _narrative(narrative: Narrative, image_id: int) -> dict[str, Any]:
    """An entry of PNG's json."""
    phrases, segments = iter(narrative.phrases), []
    for text, is_phrase in narrative.parts:
        segment = {"utterance": text.strip(), "segment_ids": [], "noun": is_phrase, "plural": False}
        if is_phrase:
            phrase = next(phrases)
            numbers = [str(entity + 1) for entity in phrase.entities]
            segment |= {"segment_ids": numbers, "plural": len(numbers) > 1, "family": phrase.family}
        segments.append(segment)
    return {"image_id": image_id, "caption": narrative.caption, "segments": segments}


def _references(composed: NarratedScene, picture: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The references of a picture in a split; numbers differ between the splits."""
    references = []
    for j, expression in enumerate(composed.expressions):
        if expression.family in _PRESENT:
            (index,) = expression.objects
            number = 2 * instance_id(picture["id"], j) + (split == "val")
            meant = {"ann_id": instance_id(picture["id"], index), "category_id": category_id(composed.things[index])}
            entry = reference_entry(expression, number, picture, split, meant)
            references.append({**entry, "family": expression.family})
    return references


def _remove_stale(root: epath.Path, names: Sequence[str], split: str, num: int) -> None:
    """Removes what was written earlier under the names, and of the split beyond its new end."""
    ids = split_ids(split, narrated=True)
    remove_others(root / PICTURES, ".jpg", ids, ids[:num])
    for other in SPLITS:
        ours, kept = split_ids(other, narrated=True), ids[:num] if other == split else range(0)
        for folder in _pictures(root, names):
            remove_others(folder, ".jpg", ours, kept)
        for folder in _labels(root, names):
            remove_others(folder, ".png", ours, kept)
