"""Random access to ReasonSeg: pictures, implicit instructions, polygons of targets and ignored regions."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Annotated, ClassVar, NotRequired, TypedDict

import msgspec
import numpy as np
from etils import epath

from grounding_jax.files import masks, pictures, records, regular

REASONSEG_SPLITS = ("train", "val", "test")
REASONSEG_DATASETS = tuple(f"ReasonSeg|{split}" for split in REASONSEG_SPLITS)

# Values of a label array (spec gsva g).
TARGET = 1
IGNORE = 255


class Shape(TypedDict):
    """What labelme draws; the dataset has polygons only, one's own pictures may have rectangles by two corners."""

    label: str
    points: list[Annotated[list[float], msgspec.Meta(min_length=2, max_length=2)]]
    shape_type: NotRequired[str]


class _Annotation(msgspec.Struct):
    """The json of a picture."""

    text: Annotated[list[str], msgspec.Meta(min_length=1)]
    is_sentence: bool | int
    shapes: list[Shape]


class _Explanation(msgspec.Struct):
    image: str
    outputs: str


@dataclasses.dataclass(frozen=True)
class ReasonRecord:
    """One image with its instructions and one mask; attributes are called as in `refer.Record`.

    Attributes:
        image: the picture file.
        raw_expressions: all instructions about the image; they share the mask.
        is_sentence: True if the instructions are sentences rather than names of a thing (spec gsva c.6).
        shapes: the polygons and rectangles, as in the file.
        explanation: why the target is the answer, in words; None where the dataset has no such text.
    """

    image: regular.File
    raw_expressions: tuple[str, ...]
    is_sentence: bool
    shapes: tuple[Shape, ...]
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
        except ValueError as error:
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
            found = pictures.list_pictures(folder)[0] if folder.exists() else []
            if not found:
                raise FileNotFoundError(f"the dataset '{name}' has no pictures: {folder}/*.jpg")
            for picture, other in itertools.pairwise(found):
                if picture.stem == other.stem:
                    raise ValueError(f"{picture} and {other.name} share an annotation: rename one of them")
            self._pictures += found
            if split == "train":
                explanations = _read_explanations(folder.parent / "explanatory" / "train.json")
                self._explanations = {folder / picture: text for picture, text in explanations.items()}

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> ReasonRecord:
        picture = self._pictures[index]
        file = picture.with_suffix(".json")
        annotation = records.read(file, _Annotation, fallback_encoding="cp1252")
        for place, shape in enumerate(annotation.shapes):
            try:
                _corners(shape)
            except ValueError as error:
                raise ValueError(f"{file}: shape {place} {error}") from error
        return ReasonRecord(
            image=picture,
            raw_expressions=tuple(annotation.text),
            is_sentence=bool(annotation.is_sentence),
            shapes=tuple(annotation.shapes),
            explanation=self._explanations.get(picture),
        )


def draw_shapes(shapes: Sequence[Shape], size: tuple[int, int]) -> np.ndarray:
    """Draws ReasonSeg's polygons, the largest first, into a label array (spec gsva g).

    Args:
        shapes: a label that contains "ignore" is an ignored region, "flag" is left out, anything else is a target.
        size: (H, W).

    Returns:
        uint8 [H, W]: 0, `TARGET` or `IGNORE`.
    """
    drawn = [(shape["label"].lower(), _corners(shape)) for shape in shapes if not _is_flag(shape)]
    areas = []
    for _, corners in drawn:
        alone = np.zeros(size, np.uint8)
        masks.draw_polygon(alone, corners, 1)
        areas.append(int(alone.sum()))
    label = np.zeros(size, np.uint8)
    # Of equal areas the later one is drawn first: the release reverses an ascending sort.
    for index in np.argsort(areas, kind="stable")[::-1]:
        name, corners = drawn[index]
        masks.draw_polygon(label, corners, IGNORE if "ignore" in name else TARGET)
    return label


def _is_flag(shape: Shape) -> bool:
    return shape["label"].lower() == "flag"


def _corners(shape: Shape) -> list[list[float]]:
    """The corners of a shape; raises ValueError unless it is a polygon, a rectangle or a flag."""
    kind, points = shape.get("shape_type", "polygon"), shape["points"]
    if kind == "polygon" or _is_flag(shape):
        return points
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]
    raise ValueError(
        f"is a {kind} of {len(points)} points; what is read are polygons and rectangles of two: draw it as a polygon"
    )


def _read_explanations(file: epath.Path) -> dict[str, str]:
    """The explanation of each picture that has one, by its file name; of several, the last (spec gsva c.4)."""
    explanations = records.read(file, list[_Explanation], fallback_encoding="cp1252")
    return {explanation.image: explanation.outputs for explanation in explanations}
