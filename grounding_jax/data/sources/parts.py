"""Random access to the datasets of things and their parts in COCO's format: PACO-LVIS and PASCAL-Part."""

import dataclasses

import msgspec
import numpy as np
from etils import epath

from grounding_jax.data import coco
from grounding_jax.data.sources.semantic import ClassRecord
from grounding_jax.files import masks, paths, records, regular
from grounding_jax.files.masks import Segmentation

# The annotation file and what its names of pictures are relative to, below the root (spec gsva g).
_LAYOUTS = {
    "paco_lvis|train": ("vlpart/paco/annotations/paco_lvis_v1_train.json", "coco"),
    "pascal_part|train": ("vlpart/pascal_part/train.json", "vlpart/pascal_part/VOCdevkit/VOC2010/JPEGImages"),
}
PART_DATASETS = tuple(_LAYOUTS)


@dataclasses.dataclass(frozen=True)
class PartRecord(ClassRecord):
    """The candidates are annotations in the order of the file, so that a name may be there twice (spec gsva c.4).

    Attributes:
        segmentations: for each candidate, its COCO segmentation.
    """

    image: regular.File
    image_id: int
    size: tuple[int, int]
    wordings: tuple[tuple[str, ...], ...]
    segmentations: tuple[Segmentation, ...]

    def _mask(self, index: int) -> np.ndarray:
        try:
            return masks.decode_mask(self.segmentations[index], self.size)
        except ValueError as error:
            name = self.wordings[index][0]
            raise ValueError(f"the mask of '{name}' in {self.image} is damaged: {error}") from error


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(coco.Instance, frozen=True):
    image_id: int
    category_id: int


class _Parts(msgspec.Struct):
    images: list[coco.Image]
    categories: list[_Category]
    annotations: list[_Annotation]


class PartSource:
    """One `PartRecord` per image of a split, in the order of the image ids (spec gsva h 25)."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the index of a split; pictures are not opened.

        Args:
            root: the folder that holds vlpart/, and coco/ for PACO (spec gsva g).
            name: one of `PART_DATASETS`.

        Raises:
            FileNotFoundError: the annotation file is missing.
            ValueError: the name is unknown, or the annotation file is damaged.
        """
        if name not in PART_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(PART_DATASETS)}")
        self.name = name
        self._file, self._pictures = (epath.Path(root) / part for part in _LAYOUTS[name])
        dataset = records.read(self._file, _Parts)
        images = records.unique(dataset.images, "image", self._file)
        categories = records.unique(dataset.categories, "category", self._file)
        try:
            wordings = {category.id: part_wordings(category.name) for category in categories.values()}
        except ValueError as error:
            raise ValueError(f"{self._file}: {error}") from error
        self._images = sorted(images.items())
        self._candidates: dict[int, list[tuple[tuple[str, ...], _Annotation]]] = {}
        for annotation in dataset.annotations:
            for kind, number, known in (
                ("image", annotation.image_id, images),
                ("category", annotation.category_id, wordings),
            ):
                if number not in known:
                    raise ValueError(f"{self._file} lacks {kind} {number}, which annotation {annotation.id} belongs to")
            candidates = self._candidates.setdefault(annotation.image_id, [])
            candidates.append((wordings[annotation.category_id], annotation))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> PartRecord:
        image_id, image = self._images[index]
        candidates = self._candidates.get(image_id, [])
        return PartRecord(
            image=paths.below(self._pictures, image.file_name, self._file),
            image_id=image_id,
            size=image.size,
            wordings=tuple(wording for wording, _ in candidates),
            segmentations=tuple(coco.segmentation(a.segmentation, a.id, self._file) for _, a in candidates),
        )


def part_wordings(category: str) -> tuple[str, ...]:
    """The names that mean a category (spec gsva c.4), without LVIS's remarks in brackets.

    "bench" is ("bench",), "mouse_(computer_equipment):wheel" is ("mouse wheel", "the wheel of the mouse").

    Raises ValueError if the category has more than a thing and a part.
    """
    names = [name.split("_(")[0] for name in category.strip().split(":")]
    if len(names) > 2:
        raise ValueError(f"a category must be a thing or thing:part, got '{category}'")
    if len(names) == 1:
        return (names[0],)
    thing, part = names
    return f"{thing} {part}", f"the {part} of the {thing}"
