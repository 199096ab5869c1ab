"""Small trees of the datasets of entities and narratives, and the truth that their files were written from.

Nothing here uses the code that is tested: colours, boxes and run lengths are made by hand.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.small_datasets import encodings, write_json, write_picture

SIZES = {139: (12, 20), 285: (20, 12), 632: (16, 16)}  # (H, W) of each picture
CATEGORIES = [
    {"id": 1, "name": "person", "supercategory": "person", "isthing": 1, "color": [220, 20, 60]},
    {"id": 18, "name": "dog", "supercategory": "animal", "isthing": 1, "color": [0, 226, 252]},
    {"id": 171, "name": "wall-brick", "supercategory": "wall", "isthing": 0, "color": [137, 54, 74]},
    {"id": 187, "name": "sky-other-merged", "supercategory": "sky", "isthing": 0, "color": [70, 130, 180]},
]
SPOKEN = {1: "person", 18: "dog", 171: "brick wall", 187: "sky"}
# Number, category and whether it is a crowd, for strips from left to right; None is void. Numbers use all three bytes.
STRIPS = {
    139: [(7, 1, 0), None, (300, 1, 0), (70_000, 171, 0), (9_000_001, 1, 1)],
    285: [(65_536, 187, 0), (255, 18, 0), None],
    632: [None, (12, 1, 1)],  # nothing but a crowd
}


@dataclasses.dataclass(frozen=True)
class Cut:
    """What is known of a picture that is cut into strips.

    Attributes:
        image: the picture, from the root.
        label_file: the PNG, from the root.
        size: (H, W).
        ids: int [H, W].
        segments: as in the annotation, crowds included.
    """

    image: str
    label_file: str
    size: tuple[int, int]
    ids: np.ndarray
    segments: list[dict[str, Any]]

    @property
    def entities(self) -> list[dict[str, Any]]:
        return [segment for segment in self.segments if not segment["iscrowd"]]


def colours(ids: np.ndarray) -> np.ndarray:
    """int [H, W] -> uint8 [H, W, 3] as COCO has it."""
    return np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)


def write_panoptic_tree(root: Path, split: str = "val2017") -> dict[int, Cut]:
    """COCO's panoptic layout, with its pictures; the annotations are not in the order of the pictures."""
    rng = np.random.default_rng(0)
    folder, cuts = root / "coco" / "annotations", {}
    labels = folder / "panoptic_segmentation" / split
    labels.mkdir(parents=True)
    for image_id, strips in STRIPS.items():
        name, (height, width) = f"{image_id:012}", SIZES[image_id]
        write_picture(root / "coco" / split / f"{name}.jpg", rng, SIZES[image_id])
        ids, segments = np.zeros(SIZES[image_id], int), []
        edges = np.linspace(0, width, len(strips) + 1).astype(int).tolist()
        for strip, left, right in zip(strips, edges, edges[1:], strict=False):
            if strip:
                number, category_id, iscrowd = strip
                ids[2:, left:right] = number
                box = [left, 2, right - left, height - 2]
                described = {"id": number, "category_id": category_id, "iscrowd": iscrowd}
                segments.append({**described, "bbox": box, "area": box[2] * box[3]})
        Image.fromarray(colours(ids)).save(labels / f"{name}.png")
        label_file = str((labels / f"{name}.png").relative_to(root))
        cuts[image_id] = Cut(f"coco/{split}/{name}.jpg", label_file, SIZES[image_id], ids, segments)
    annotations = [
        {"image_id": image_id, "file_name": f"{image_id:012}.png", "segments_info": cuts[image_id].segments}
        for image_id in (632, 139, 285)
    ]
    images = [
        {"id": image_id, "file_name": f"{image_id:012}.jpg", "height": height, "width": width}
        for image_id, (height, width) in SIZES.items()
    ]
    content = {"images": images[::-1], "annotations": annotations, "categories": CATEGORIES}
    write_json(folder / f"panoptic_{split}.json", content)
    return cuts


def part(utterance: str, *segment_ids: str, noun: bool = True) -> dict[str, Any]:
    """A piece of a narrative, as in the file."""
    plural = len(segment_ids) > 1
    return {"utterance": utterance, "segment_ids": list(segment_ids), "noun": noun, "plural": plural}


# The caption, its parts, and for each phrase what it is called, where it is and which segments it means.
NARRATIVES = [
    {
        "image_id": "139",  # a text
        "caption": "In this image, two people  don't see a wall or the dog. People sit.",
        "annotator_id": 3,
        "segments": [
            part("In this image,", noun=False),
            part(" two people", "7", "300"),
            part("don't see", noun=False),
            part("a wall ", "70000"),
            part("or", noun=False),
            part("the dog"),  # not grounded
            part(".", noun=False),
            part("people", "9000001"),  # a crowd, and in lower case
            part("sit .", noun=False),
        ],
    },
    {
        "image_id": 285,
        "caption": "There is a dog below the sky.",
        "segments": [
            part("Here we have", noun=False),  # other words than the caption's
            part("a dog", "255"),
            part("under", noun=False),
            part("clouds", "65536"),
            part("and the", noun=False),
            part("sky", "65536"),
        ],
    },
    {"image_id": "000000000139", "caption": "Nothing.", "segments": [part("Nothing.", noun=False)]},
]
PHRASES = [
    [
        ("two people", (15, 25), (7, 300), True),
        ("a wall", (37, 43), (70_000,), False),
        ("the dog", (47, 54), (), None),
        ("people", (56, 62), (9_000_001,), True),
    ],
    [
        ("a dog", (9, 14), (255,), True),
        ("clouds", None, (65_536,), False),
        ("sky", (25, 28), (65_536,), False),
    ],
    [],
]


def write_narratives(root: Path, split: str = "val2017") -> None:
    write_json(root / "coco" / "annotations" / f"png_coco_{split}.json", NARRATIVES)


def write_entityseg(root: Path, split: str = "val") -> dict[str, list[tuple[int, int, int, int]]]:
    """Two pictures with an entity in each of COCO's encodings, and one without; gives the boxes of each picture."""
    rng, boxes = np.random.default_rng(1), {}
    images, annotations = [], []
    suffix = "_lr" if split.endswith("_lr") else ""
    for image_id, name in ((4, "entity_01_11580/b.jpg"), (2, "entity_02_11598/a.jpg"), (9, "entity_03_10049/c.jpg")):
        size = SIZES[139]
        write_picture(root / "entityseg" / f"images{suffix}" / name, rng, size)
        images.append({"id": image_id, "file_name": name, "height": size[0], "width": size[1]})
        boxes[name] = [(i, i, i + 8, i + 4 + i) for i in range(4)] if image_id != 9 else []
        for i, box in enumerate(boxes[name]):
            annotation = {"id": 10 * image_id + i, "image_id": image_id, "category_id": 641, "bbox": [0, 0, 1, 1]}
            annotations.append({**annotation, "area": 1.5 + i, "segmentation": encodings(size, box)[i]})
    crowd = {"id": 99, "image_id": 2, "category_id": 1, "area": 1, "segmentation": [[0, 0, 9, 0, 9, 9]], "iscrowd": 1}
    categories = [{"id": 641, "name": "woman", "type": "thing"}, {"id": 3, "name": "sky", "type": "stuff"}]
    content = {"images": images, "annotations": [*annotations, crowd], "categories": categories}
    file = f"entityv2_010203_entity_{split}.json"
    write_json(root / "entityseg" / "annotations" / "entity_segmentation" / file, content)
    return boxes
