"""Small trees in the layouts of all public datasets, and the truth that their files were written from.

Masks are drawn as arrays first and then encoded by code of this file alone, so that tests compare two independent ways.
"""

import dataclasses
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels
SIZES = ((40, 56), (56, 40), (48, 48), (40, 56))  # (H, W), multiples of TILE
TILE = 8
TRAIN2014 = "refer_seg/images/mscoco/images/train2014"
# dataset: (expression file, folder of the pictures, the split of the last picture, such as "val")
REFER = {
    "refcoco|unc": ("refs(unc).p", TRAIN2014, "val"),
    "refcoco+|unc": ("refs(unc).p", TRAIN2014, "testA"),
    "refcocog|umd": ("refs(umd).p", TRAIN2014, "val"),
    "refclef|unc": ("refs(unc).p", "refer_seg/images/saiapr_tc-12", "testC"),
    "grefcoco|unc": ("grefs(unc).json", TRAIN2014, "testA"),
    "refzom|final": ("Ref_ZOM.p", TRAIN2014, "test"),
}
# What a value of a label map means, None where it is ignored: a few of each dataset.
ADE20K = {0: None, 1: "wall", 2: "building", 13: "person", 150: "flag", 255: None}
COCO_STUFF = {0: "person", 2: "car", 95: None, 156: "sky", 171: None, 181: "wood", 255: None}
MAPILLARY = {0: "bird", 1: "ground animal", 2: "crosswalk - plain", 3: "car", 4: "unlabeled", 255: None}
PACO = {
    7: ("bench", ("bench",)),
    3: ("mouse_(computer_equipment)", ("mouse",)),
    12: ("mouse_(computer_equipment):scroll_wheel", ("mouse scroll_wheel", "the scroll_wheel of the mouse")),
    5: ("dog:leg", ("dog leg", "the leg of the dog")),
}
PASCAL = {
    1: ("dog:leg", ("dog leg", "the leg of the dog")),
    2: ("aeroplane:left wing", ("aeroplane left wing", "the left wing of the aeroplane")),
}


@dataclasses.dataclass(frozen=True)
class Truth:
    """What a source has to say about one image.

    Attributes:
        image: the picture, from the root.
        size: (H, W).
        texts: raw expressions, the wordings of each candidate, or the turns of a conversation.
        masks: bool [n, H, W], one per text; for ReasonSeg one for all; none for conversations.
        ignore: bool [H, W], of ReasonSeg only.
        explanation: of ReasonSeg only.
    """

    image: str
    size: tuple[int, int]
    texts: tuple
    masks: np.ndarray
    ignore: np.ndarray | None = None
    explanation: str | None = None


def write_all(root: Path, seed: int) -> dict[str, list[Truth]]:
    """Writes a tree of every public layout below `root`; gives the truth of each dataset's images in their order."""
    rng = np.random.default_rng(seed)
    truth = {}
    for dataset in REFER:
        truth |= write_refer(root, rng, dataset)
    truth |= write_reasonseg(root, rng)
    truth |= write_label_maps(root, rng)
    truth |= write_parts(root, rng)
    return truth | write_llava(root, rng)


def write_picture(file: Path, rng: np.random.Generator, size: tuple[int, int], grey: bool = False) -> None:
    """A JPEG of random colours, or of one channel."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shape = size if grey else (*size, 3)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file)


def write_json(file: Path, content: Any, encoding: str = "utf-8") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))


def draw_box(rng: np.random.Generator, size: tuple[int, int]) -> Box:
    """A random rectangle of at least 4 x 4 pixels."""
    height, width = size
    x0, y0 = int(rng.integers(0, width - 12)), int(rng.integers(0, height - 12))
    return x0, y0, int(rng.integers(x0 + 4, width)), int(rng.integers(y0 + 4, height))


def box_mask(size: tuple[int, int], box: Box) -> np.ndarray:
    """bool [H, W], True where x0 <= x < x1 and y0 <= y < y1."""
    x0, y0, x1, y1 = box
    mask = np.zeros(size, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def corners(box: Box) -> list[list[int]]:
    """The rectangle as corners [x, y]."""
    x0, y0, x1, y1 = box
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def halves(box: Box) -> tuple[Box, Box]:
    """The left and the right half of a rectangle."""
    x0, y0, x1, y1 = box
    middle = (x0 + x1) // 2
    return (x0, y0, middle, y1), (middle, y0, x1, y1)


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0, 1, 0 ... down the columns, as in COCO's crowd annotations."""
    runs, value, length = [], False, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    return [*runs, length]


def compressed(runs: Sequence[int]) -> str:
    """COCO's text form of run lengths: differences to the one before the last, five bits a character, lowest first."""
    text = ""
    for place, run in enumerate(runs):
        number = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            bits, number = number & 31, number >> 5
            more = number != (-1 if bits & 16 else 0)
            text += chr(48 + bits + 32 * more)
    return text


def encodings(size: tuple[int, int], box: Box) -> list[list | dict]:
    """A rectangle in every form that COCO segmentations come in."""
    polygons = [np.ravel(corners(half)).tolist() for half in halves(box)]
    runs = [run_lengths(box_mask(size, part)) for part in (box, *halves(box))]
    return [
        [*polygons, [1, 2, 3, 4]],  # the last one has two corners only, and counts as nothing
        {"size": list(size), "counts": runs[0]},
        {"size": list(size), "counts": compressed(runs[0])},
        [{"size": list(size), "counts": compressed(runs[1])}, {"size": list(size), "counts": runs[2]}],
    ]


def write_refer(root: Path, rng: np.random.Generator, dataset: str) -> dict[str, list[Truth]]:
    """One dataset of referring expressions: three pictures of train and one of another split."""
    file, pictures, other = REFER[dataset]
    name = dataset.partition("|")[0]
    refs, images, annotations = [], [], []
    truth: dict[str, list[Truth]] = {f"{dataset}|train": [], f"{dataset}|{other}": []}
    for number, size in enumerate(SIZES):
        image_id, split = 100 + number, "train" if number < 3 else other
        file_name = f"COCO_train2014_{image_id:012}.jpg"
        write_picture(root / pictures / file_name, rng, size, grey=number == 1)
        images.append({"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]})
        boxes = [draw_box(rng, size) for _ in range(4)]
        first = len(annotations)
        annotations += [
            {"id": first + i, "image_id": image_id, "category_id": 1, "segmentation": encodings(size, box)[i]}
            | {"bbox": [0, 0, 1, 1], "area": 1, "iscrowd": int(i == 1)}
            for i, box in enumerate(boxes)
        ]
        annotations.append({"id": first + 4, "image_id": image_id, "category_id": 1, "segmentation": [[1, 2, 3, 4]]})
        texts, masks = [], []
        for chosen in ([0], [1], [2], [3], [0, 2], [4], []):
            if len(chosen) != 1 and name not in ("grefcoco", "refzom"):
                continue
            ann_ids: list[int] | int = [first + i for i in chosen]
            if name not in ("grefcoco", "refzom"):
                ann_ids = ann_ids[0]
            elif name == "grefcoco" and not chosen:
                ann_ids = [-1]
            sentences = [f"Thing {len(refs)}.{i}" for i in range(1 + len(refs) % 3)]
            refs.append(reference(len(refs), image_id, ann_ids, split, sentences))
            union = sum((box_mask(size, boxes[i]) for i in chosen if i < 4), np.zeros(size, bool))
            texts += sentences
            masks += [union] * len(sentences)
        truth[f"{dataset}|{split}"].append(Truth(f"{pictures}/{file_name}", size, tuple(texts), np.stack(masks)))
    folder = root / "refer_seg" / name
    categories = [{"id": 1, "name": "thing"}]
    write_json(
        folder / "instances.json", {"images": images[::-1], "annotations": annotations, "categories": categories}
    )
    (folder / file).write_bytes(json.dumps(refs).encode() if file.endswith(".json") else pickle.dumps(refs, 2))
    return truth


def reference(
    ref_id: int, image_id: int, ann_ids: list[int] | int, split: str, sentences: Sequence[str]
) -> dict[str, Any]:
    """One entry of a file of expressions, with all keys of the published ones."""
    listed = isinstance(ann_ids, list)
    return {
        "ref_id": ref_id,
        "ann_id": ann_ids,
        "category_id": [1] * len(ann_ids) if listed else 1,
        "image_id": image_id,
        "split": split,
        "file_name": f"COCO_train2014_{image_id:012}_{ref_id}.jpg",
        "no_target": listed and ann_ids in ([], [-1]),
        "sent_ids": list(range(len(sentences))),
        "sentences": [
            {"sent_id": i, "sent": text, "raw": text, "tokens": text.split()} for i, text in enumerate(sentences)
        ],
    }


def write_reasonseg(root: Path, rng: np.random.Generator) -> dict[str, list[Truth]]:
    """Two pictures of train, of which the second has an explanation, and one of val and test each."""
    folder = root / "reason_seg" / "ReasonSeg"
    truth: dict[str, list[Truth]] = {}
    for number, (split, name) in enumerate([("train", "a"), ("train", "b"), ("val", "c"), ("test", "d")]):
        size = SIZES[number]
        image = folder / split / f"{name}.jpg"
        write_picture(image, rng, size)
        # A target, which hides a part of a larger ignored region and has a hole, itself ignored.
        boxes = {"ignore": (2, 3, 35, 30), "target": (10, 8, 30, 28), "Ignored too": (12, 10, 15, 14)}
        shapes = [{"label": label, "labels": [label], "points": corners(box)} for label, box in boxes.items()]
        shapes.append({"label": "flag", "points": [[0, 0], [9, 0], [9, 9]]})
        texts = [f"the café’s sign {number}", "which one?"][: 1 + number % 2]
        annotation = {"text": texts, "is_sentence": bool(number % 2), "shapes": [shapes[i] for i in rng.permutation(4)]}
        write_json(image.with_suffix(".json"), annotation, "cp1252" if number == 0 else "utf-8")
        label = np.zeros(size, int)
        for value, box in zip((255, 1, 255), boxes.values(), strict=True):
            x0, y0, x1, y1 = box
            label[box_mask(size, (x0, y0, x1 + 1, y1 + 1))] = value  # outlines are drawn, too
        explanation = "It’s the café." if name == "b" else None
        path = str(image.relative_to(root))
        entry = Truth(path, size, tuple(texts), (label == 1)[None], label == 255, explanation)
        truth.setdefault(f"ReasonSeg|{split}", []).append(entry)
    explanations = [
        {"image": "b.jpg", "query": "why?", "outputs": "It’s the café.", "json": "b.json"},
        {"image": "c.jpg", "query": "why?", "outputs": "only pictures of train have one"},
    ]
    write_json(folder / "explanatory" / "train.json", explanations, "cp1252")
    return truth


def write_label_maps(root: Path, rng: np.random.Generator) -> dict[str, list[Truth]]:
    """ADE20K, COCO-Stuff and Mapillary; in the last label map of each, everything is ignored."""
    labels = [{"name": f"x--{name}", "readable": name.title()} for name in MAPILLARY.values() if name]
    write_json(root / "mapillary" / "config_v2.0.json", {"labels": labels, "version": "2.0"})
    layouts = {
        "ade20k|training": ("ade20k/images/training", "ade20k/annotations/training", ADE20K, "L"),
        "ade20k|validation": ("ade20k/images/validation", "ade20k/annotations/validation", ADE20K, "L"),
        "cocostuff|train2017": ("coco/train2017", "cocostuff/train2017", COCO_STUFF, "L"),
        "mapillary|training": ("mapillary/training/images", "mapillary/training/v2.0/labels", MAPILLARY, "P"),
    }
    truth = {}
    for dataset, (pictures, label_maps, meanings, mode) in layouts.items():
        truth[dataset] = []
        (root / label_maps).mkdir(parents=True)
        ignored = [value for value, name in meanings.items() if name is None]
        for number, values in enumerate((list(meanings), list(meanings)[:3], ignored)):
            size = SIZES[number]
            write_picture(root / pictures / f"{number:012}.jpg", rng, size, grey=number == 1)
            tiles = rng.permutation(np.resize(values, size[0] * size[1] // TILE**2))
            label = np.kron(tiles.reshape(size[0] // TILE, -1), np.ones((TILE, TILE), int)).astype(np.uint8)
            picture = Image.fromarray(label)
            if mode == "P":
                picture.putpalette(rng.integers(0, 256, 768, dtype=np.uint8).tobytes())
            picture.save(root / label_maps / f"{number:012}.png")
            present = [value for value in sorted(values) if meanings[value]]
            masks = np.array([label == value for value in present], bool).reshape(len(present), *size)
            wordings = tuple((meanings[value],) for value in present)
            truth[dataset].append(Truth(f"{pictures}/{number:012}.jpg", size, wordings, masks))
    return truth


def write_parts(root: Path, rng: np.random.Generator) -> dict[str, list[Truth]]:
    """PACO-LVIS and PASCAL-Part; the last picture of each has no annotation."""
    layouts = {
        "paco_lvis|train": ("vlpart/paco/annotations/paco_lvis_v1_train.json", "coco", PACO),
        "pascal_part|train": (
            "vlpart/pascal_part/train.json",
            "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages",
            PASCAL,
        ),
    }
    truth = {}
    for dataset, (file, pictures, categories) in layouts.items():
        truth[dataset], images, annotations = [], [], []
        for number, size in enumerate(SIZES[:3]):
            image_id = 10 + number
            file_name = f"{'train2017/' if pictures == 'coco' else ''}{image_id:012}.jpg"
            write_picture(root / pictures / file_name, rng, size)
            images.append({"id": image_id, "file_name": file_name, "height": size[0], "width": size[1]})
            wordings, masks = [], []
            for form in range(5 if number < 2 else 0):
                box = draw_box(rng, size)
                category = list(categories)[form % len(categories)]  # the first of them comes twice
                segmentation = encodings(size, box)[form] if form < 4 else [[1, 2, 3, 4]]
                annotation = {"id": len(annotations), "image_id": image_id, "category_id": category, "area": 1}
                annotations.append({**annotation, "segmentation": segmentation})
                wordings.append(categories[category][1])
                masks.append(box_mask(size, box) & (form < 4))
            stacked = np.array(masks, bool).reshape(len(masks), *size)
            truth[dataset].append(Truth(f"{pictures}/{file_name}", size, tuple(wordings), stacked))
        names = [{"id": number, "name": name} for number, (name, _) in categories.items()]
        write_json(root / file, {"images": images[::-1], "annotations": annotations, "categories": names})
    return truth


def write_llava(root: Path, rng: np.random.Generator) -> dict[str, list[Truth]]:
    """Three conversations about two pictures."""
    items, truth = [], []
    for number, picture in enumerate((42, 7, 42)):
        size = SIZES[picture % 2]
        write_picture(root / "coco" / "train2017" / f"{picture:012}.jpg", rng, size)
        first = f"<image>\nWhat is it? {number}" if number % 2 else f"What is it? {number}\n<image>"
        turns = [
            turn
            for question in (first, "Is it large?", "Why?")[: 1 + number]
            for turn in ({"from": "human", "value": question}, {"from": "gpt", "value": "A naïve dog."})
        ]
        items.append({"id": f"{picture:012}", "image": f"{picture:012}.jpg", "conversations": turns})
        truth.append(Truth(f"coco/train2017/{picture:012}.jpg", size, tuple(turns), np.zeros((0, *size), bool)))
    write_json(root / "llava_dataset" / "llava_instruct_150k.json", items)
    return {"llava_instruct_150k": truth}
