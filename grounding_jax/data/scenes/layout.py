"""The layout of the RefCOCO family, which scenes are written in: pictures, all their instances, and references."""

import contextlib
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from grounding_jax.data.scenes.compose import MAX_OBJECTS, SceneObject, check_split
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import Expression
from grounding_jax.files import records
from grounding_jax.files.writing import write_json

PICTURES = "refer_seg/images/mscoco/images/train2014"
INSTANCES_FILE = "instances.json"
MAX_SCENES = 10_000_000  # of one split: image ids of a split are a range of this length
MIN_SIZE, MAX_SIZE = 32, 2048  # smaller pictures show nothing, larger ones nothing more
# In the order of their ids, which are above those of COCO: a picture of COCO is never taken for a scene.
_NUMBERED = ("val", "test", "train")
_ID_STEP = MAX_OBJECTS + 2  # ids of objects and expressions: image id times this, plus 1, 2, ...
_CATEGORIES = [{"id": k, "name": kind.noun, "supercategory": "thing"} for k, kind in enumerate(KINDS, 1)]
_CATEGORY_IDS = {category["name"]: category["id"] for category in _CATEGORIES}


def check_request(num: int, seed: int, split: str, size: int) -> None:
    """Raises ValueError if scenes can't be asked for like this."""
    check_split(split)
    if not 1 <= num <= MAX_SCENES or seed < 0 or not MIN_SIZE <= size <= MAX_SIZE:
        raise ValueError(
            f"num {num}, seed {seed}, size {size}: "
            f"num must be in 1..{MAX_SCENES}, seed at least 0, size in {MIN_SIZE}..{MAX_SIZE}"
        )


@contextlib.contextmanager
def clear_errors(root: epath.Path) -> Iterator[None]:
    """Says of an error that it came up while scenes were written."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"can't write scenes to {root}: {error.strerror or error}") from error


@contextlib.contextmanager
def clear_owner(folder: epath.Path) -> Iterator[None]:
    """Says of an error that the files of a folder are not scenes."""
    try:
        yield
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} has files of something else ({error}): choose another folder") from error


def split_ids(split: str, narrated: bool = False) -> range:
    """The image ids of a split; those of narrated scenes are others."""
    first = (1 + _NUMBERED.index(split) + len(_NUMBERED) * narrated) * MAX_SCENES + 1
    return range(first, first + MAX_SCENES)


def encode_jpeg(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] -> a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def run_lengths(mask: np.ndarray) -> dict[str, list[int]]:
    """bool [H, W] -> uncompressed COCO run lengths: size [H, W], counts down the columns, false first."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    counts = np.diff(np.concatenate([[0], edges, [mask.size]]))
    return {"size": list(mask.shape), "counts": counts.tolist()}


def picture_entry(image_id: int, size: int) -> dict[str, Any]:
    """What the instances file tells of a picture."""
    return {"id": image_id, "file_name": f"COCO_train2014_{image_id:012d}.jpg", "height": size, "width": size}


def instance_entries(objects: Sequence[SceneObject], image_id: int) -> list[dict[str, Any]]:
    """What the instances file tells of the objects of a picture."""
    entries = []
    for k, thing in enumerate(objects):
        left, top, right, bottom = thing.box
        entries.append(
            {
                "id": instance_id(image_id, k),
                "image_id": image_id,
                "category_id": _CATEGORY_IDS[thing.kind],
                "segmentation": run_lengths(thing.mask),
                "bbox": [left, top, right - left, bottom - top],
                "area": thing.area,
                "iscrowd": 0,
            }
        )
    return entries


def instance_id(image_id: int, index: int) -> int:
    """The number of an object of a picture, or of an expression."""
    return image_id * _ID_STEP + index + 1


def category_id(thing: SceneObject) -> int:
    """The number of an object's category."""
    return _CATEGORY_IDS[thing.kind]


def reference_entry(
    expression: Expression, number: int, picture: dict[str, Any], split: str, meant: dict[str, Any]
) -> dict[str, Any]:
    """A reference of one sentence, `number` being that of both; `meant` has its instances."""
    text = expression.text
    sentence = {"sent_id": number, "sent": text, "raw": text, "tokens": text.split()}
    return {
        "ref_id": number,
        **meant,
        "image_id": picture["id"],
        "split": split,
        "file_name": picture["file_name"],
        "sentences": [sentence],
        "sent_ids": [number],
    }


def read_others(
    folder: epath.Path, refs_file: str, splits: Collection[str], image_ids: range
) -> tuple[list[dict], dict[str, list]]:
    """What the folder has besides references of some splits and instances of some pictures, which are replaced.

    Raises ValueError if the folder has files that aren't scenes.
    """
    if not (folder / refs_file).exists() and not (folder / INSTANCES_FILE).exists():
        return [], {"images": [], "annotations": [], "categories": _CATEGORIES}
    with clear_owner(folder):
        refs = records.read(folder / refs_file, list[dict[str, Any]])
        instances = records.read(folder / INSTANCES_FILE, dict[str, list[dict[str, Any]]])
        if instances["categories"] != _CATEGORIES:
            raise ValueError("other categories")
        others = [ref for ref in refs if ref["split"] not in splits]
        images = [image for image in instances["images"] if image["id"] not in image_ids]
        annotations = [thing for thing in instances["annotations"] if thing["image_id"] not in image_ids]
    return others, {"images": images, "annotations": annotations, "categories": _CATEGORIES}


def write_refer(folder: epath.Path, refs_file: str, refs: list[dict], instances: dict[str, list]) -> None:
    """Writes references and instances: the same files, whichever split was written first."""
    ordered = {key: sorted(instances[key], key=lambda entry: entry["id"]) for key in ("images", "annotations")}
    write_json(folder / INSTANCES_FILE, instances | ordered)
    write_json(folder / refs_file, sorted(refs, key=lambda ref: ref["ref_id"]))


def remove_others(folder: epath.Path, ending: str, ours: range, kept: range) -> None:
    """Removes numbered files that an earlier writing has left: those of `ours` which are not `kept`."""
    for path in folder.glob(f"*{ending}"):
        number = path.stem.rpartition("_")[2]
        if number.isdecimal() and int(number) in ours and int(number) not in kept:
            path.unlink()
