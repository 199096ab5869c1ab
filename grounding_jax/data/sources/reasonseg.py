"""Random access to ReasonSeg: pictures, implicit instructions, polygons of targets and ignored regions."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from etils import epath

from grounding_jax.data import files, masks, pictures

REASONSEG_SPLITS = ("train", "val", "test")
REASONSEG_DATASETS = tuple(f"ReasonSeg|{split}" for split in REASONSEG_SPLITS)

# Values of a label array (spec gsva g).
TARGET = 1
IGNORE = 255


@dataclasses.dataclass(frozen=True)
class ReasonRecord:
    """One image with its instructions and one mask; attributes are called as in `refer.Record`.

    Attributes:
        image: the picture file.
        raw_expressions: all instructions about the image; they share the mask.
        is_sentence: whether the instructions are sentences rather than names of a thing (spec gsva c.6).
        shapes: the polygons, as in the file.
        explanation: why the target is the answer, in words; None where the dataset has no such text.
    """

    image: files.File
    raw_expressions: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[dict[str, Any], ...]
    explanation: str | None
    families: ClassVar[None] = None  # the dataset does not tell

    @property
    def image_id(self) -> str:
        """The name of the picture, which the dataset has instead of a number."""
        return self.image.stem

    @property
    def expressions(self) -> list[str]:
        """What evaluation asks for: the first instruction only (spec gsva c.6)."""
        return [self.raw_expressions[0].strip()]

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(H, W), read from the picture's header."""
        return pictures.picture_size(self.image)

    @functools.cached_property
    def label(self) -> np.ndarray:
        """uint8 [H, W]: 0, `TARGET` or `IGNORE`."""
        try:
            return draw_shapes(self.shapes, self.size)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a shape of {self.image.with_suffix('.json')} is damaged: {error}") from error

    @property
    def masks(self) -> np.ndarray:
        """bool [1, H, W]: the target, without the ignored region."""
        return (self.label == TARGET)[None]

    @property
    def ignore(self) -> np.ndarray:
        """bool [H, W]: pixels that do not count; the release takes them for the target (spec gsva h 8)."""
        return self.label == IGNORE

    @property
    def rejected(self) -> np.ndarray:
        """bool [1]: never; every instruction has a target."""
        return np.zeros(1, bool)


class ReasonSegSource:
    """One `ReasonRecord` per picture of a split, in the order of the file names (spec gsva h 25)."""

    def __init__(self, root: epath.PathLike, name: str):
        """Lists a split; the explanations, which only pictures of train have, are read with it.

        Args:
            root: the folder that holds reason_seg/ (spec gsva g).
            name: one of `REASONSEG_DATASETS`, or several splits joined like "ReasonSeg|train_val".

        Raises:
            FileNotFoundError: the split's folder, its pictures or the file of explanations are missing.
            ValueError: the name is unknown, or the file of explanations is damaged.
        """
        dataset, _, splits = name.partition("|")
        if any(f"{dataset}|{split}" not in REASONSEG_DATASETS for split in splits.split("_")):
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(REASONSEG_DATASETS)}")
        self.name = name
        self._pictures: list[epath.Path] = []
        self._explanations: dict[epath.Path, str] = {}
        for split in splits.split("_"):
            folder = epath.Path(root) / "reason_seg" / dataset / split
            found = sorted(folder.glob("*.jpg")) if folder.exists() else []
            if not found:
                raise FileNotFoundError(f"the dataset '{name}' has no pictures: {folder}/*.jpg")
            self._pictures += found
            if split == "train":
                explanations = _read_explanations(folder.parent / "explanatory" / "train.json")
                self._explanations = {folder / picture: text for picture, text in explanations.items()}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> ReasonRecord:
        picture = self._pictures[index]
        file = picture.with_suffix(".json")
        annotation = files.read_json(file, fallback_encoding="cp1252")
        for key in ("text", "is_sentence", "shapes"):
            if not isinstance(annotation, dict) or key not in annotation:
                raise ValueError(f"{file} is not a ReasonSeg annotation: it has no '{key}'")
        if not annotation["text"]:
            raise ValueError(f"{file} has no instruction: its 'text' is empty")
        return ReasonRecord(
            image=picture,
            raw_expressions=tuple(annotation["text"]),
            is_sentence=bool(annotation["is_sentence"]),
            shapes=tuple(annotation["shapes"]),
            explanation=self._explanations.get(picture),
        )


def draw_shapes(shapes: Sequence[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
    """Draws ReasonSeg's polygons, the largest first, into a label array (spec gsva g).

    Args:
        shapes: dicts with "label" and "points"; a label that contains "ignore" is an ignored region, "flag"
            is left out, anything else is a target.
        size: (H, W).

    Returns:
        uint8 [H, W]: 0, `TARGET` or `IGNORE`.
    """
    drawn = [shape for shape in shapes if shape["label"].lower() != "flag"]
    areas = []
    for shape in drawn:
        alone = np.zeros(size, np.uint8)
        masks.draw_polygon(alone, shape["points"], 1)
        areas.append(int(alone.sum()))
    label = np.zeros(size, np.uint8)
    # Of equal areas the later one is drawn first: the release reverses an ascending sort.
    for index in np.argsort(areas, kind="stable")[::-1]:
        value = IGNORE if "ignore" in drawn[index]["label"].lower() else TARGET
        masks.draw_polygon(label, drawn[index]["points"], value)
    return label


def _read_explanations(file: epath.Path) -> dict[str, str]:
    """The explanation of each picture that has one, by its file name; of several, the last (spec gsva c.4)."""
    items = files.read_json(file, fallback_encoding="cp1252")
    try:
        explanations = {item["image"]: item["outputs"] for item in items}
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a list of explanations: {error!r}") from error
    for picture, text in explanations.items():
        if not isinstance(text, str):
            raise ValueError(f"{file}: the 'outputs' of '{picture}' must be a text, got {text!r}")
    return explanations
