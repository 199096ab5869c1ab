"""Random access to the datasets of things and their parts in COCO's format: PACO-LVIS and PASCAL-Part."""

import dataclasses

import numpy as np
from etils import epath

from grounding_jax.data import files, masks
from grounding_jax.data.sources.semantic import ClassRecord

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

    image: files.File
    image_id: int
    size: tuple[int, int]
    wordings: tuple[tuple[str, ...], ...]
    segmentations: tuple[list | dict, ...]

    def _mask(self, index: int) -> np.ndarray:
        try:
            return masks.decode_mask(self.segmentations[index], self.size)
        except (TypeError, ValueError) as error:
            name = self.wordings[index][0]
            raise ValueError(f"the mask of '{name}' in {self.image} is damaged: {error}") from error


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
        file, self._pictures = (epath.Path(root) / part for part in _LAYOUTS[name])
        dataset = files.read_json(file)
        try:
            images = {i["id"]: (i["file_name"], (i["height"], i["width"])) for i in dataset["images"]}
            wordings = {category["id"]: part_wordings(category["name"]) for category in dataset["categories"]}
            keys = ("id", "image_id", "category_id", "segmentation")
            annotations = [[annotation[key] for key in keys] for annotation in dataset["annotations"]]
            self._images = sorted(images.items())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not a COCO annotation file: {error!r}") from error
        self._candidates: dict[int, list[tuple[tuple[str, ...], list | dict]]] = {}
        for ann_id, image_id, category_id, segmentation in annotations:
            if image_id not in images:
                raise ValueError(f"{file} lacks image {image_id}, which annotation {ann_id} belongs to")
            if category_id not in wordings:
                raise ValueError(f"{file} lacks category {category_id}, which annotation {ann_id} belongs to")
            self._candidates.setdefault(image_id, []).append((wordings[category_id], segmentation))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> PartRecord:
        image_id, (file_name, size) = self._images[index]
        candidates = self._candidates.get(image_id, [])
        return PartRecord(
            image=self._pictures / file_name,
            image_id=image_id,
            size=size,
            wordings=tuple(wording for wording, _ in candidates),
            segmentations=tuple(segmentation for _, segmentation in candidates),
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
