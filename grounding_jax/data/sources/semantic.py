"""Random access to the datasets of label maps: ADE20K, COCO-Stuff, Mapillary Vistas."""

import abc
import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from grounding_jax.data import files, pictures
from grounding_jax.data.sources.class_names import ADE20K_CLASSES, COCO_NEVER_LABELLED, COCO_STUFF_CLASSES

# Where the pictures NAME.jpg and the label maps NAME.png lie below the root (spec gsva g).
_FOLDERS = {
    "ade20k|training": ("ade20k/images/training", "ade20k/annotations/training"),
    "ade20k|validation": ("ade20k/images/validation", "ade20k/annotations/validation"),
    "cocostuff|train2017": ("coco/train2017", "cocostuff/train2017"),
    "mapillary|training": ("mapillary/training/images", "mapillary/training/v2.0/labels"),
}
SEMANTIC_DATASETS = tuple(_FOLDERS)
_MAPILLARY_CONFIG = "mapillary/config_v2.0.json"


class ClassRecord(abc.ABC):
    """One image and what can be asked for in it: classes, or parts of things (spec gsva c.4).

    Attributes:
        image: the picture file.
        image_id: the dataset's number of the image, or the name of the picture where there are no numbers.
        size: (H, W) of the masks, from the annotations.
        wordings: for each candidate, the names that mean it; no candidates where nothing is annotated.
    """

    image: files.File
    image_id: int | str
    size: tuple[int, int]
    wordings: tuple[tuple[str, ...], ...]

    def masks_of(self, indices: Sequence[int]) -> np.ndarray:
        """bool [len(indices), H, W]: the masks of some candidates."""
        chosen = [self._mask(index) for index in indices]
        return np.stack(chosen) if chosen else np.zeros((0, *self.size), bool)

    @abc.abstractmethod
    def _mask(self, index: int) -> np.ndarray:
        """bool [H, W]: the mask of one candidate."""


@dataclasses.dataclass(frozen=True)
class LabelMapRecord(ClassRecord):
    """The candidates are the classes in a label map, in the order of its values; it is read at the first use.

    Attributes:
        label_file: the label map.
        meanings: what its values mean: the name of a class, or None for pixels that are ignored.
    """

    image: files.File
    image_id: str
    label_file: files.File
    meanings: Mapping[int, str | None]

    @functools.cached_property
    def label_map(self) -> np.ndarray:
        """uint8 [H, W]: the values, as in the file."""
        return pictures.open_label_map(self.label_file)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the label map."""
        height, width = self.label_map.shape
        return height, width

    @property
    def wordings(self) -> tuple[tuple[str, ...], ...]:
        """The name of each class that is there."""
        return tuple((self.meanings[value],) for value in self._candidates)

    @functools.cached_property
    def _candidates(self) -> tuple[int, ...]:
        """The values that mean a class."""
        values = np.unique(self.label_map).tolist()
        for value in values:
            if value not in self.meanings:
                raise ValueError(f"the label map {self.label_file} has the value {value}, which means no class")
        return tuple(value for value in values if self.meanings[value] is not None)

    def _mask(self, index: int) -> np.ndarray:
        return self.label_map == self._candidates[index]


class LabelMapSource:
    """One `LabelMapRecord` per image of a split, in the order of the file names (spec gsva h 25).

    Attributes:
        name: the dataset and its split.
        classes: the names of all classes, those included that are ignored.
    """

    def __init__(self, root: epath.PathLike, name: str):
        """Lists a split; no picture or label map is opened.

        Args:
            root: the folder that holds ade20k/, coco/ with cocostuff/, or mapillary/ (spec gsva g).
            name: one of `SEMANTIC_DATASETS`.

        Raises:
            FileNotFoundError: the split's folder or its files are missing, or Mapillary's list of classes.
            ValueError: the name is unknown, or Mapillary's list of classes is damaged.
        """
        if name not in SEMANTIC_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(SEMANTIC_DATASETS)}")
        dataset = name.partition("|")[0]
        self.name = name
        self._pictures, self._label_maps = (epath.Path(root) / folder for folder in _FOLDERS[name])
        # COCO's pictures are those of other datasets too, so the label maps say which of them belong to this one.
        folder, pattern = (self._label_maps, "*.png") if dataset == "cocostuff" else (self._pictures, "*.jpg")
        self._image_ids = sorted(file.stem for file in folder.glob(pattern)) if folder.exists() else []
        if not self._image_ids:
            raise FileNotFoundError(f"the dataset '{name}' has no files: {folder}/{pattern}")
        if dataset == "ade20k":
            self.classes = ADE20K_CLASSES
        elif dataset == "cocostuff":
            self.classes = COCO_STUFF_CLASSES
        else:
            self.classes = _read_mapillary_classes(epath.Path(root) / _MAPILLARY_CONFIG)
        self._meanings = class_meanings(dataset, self.classes)

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> LabelMapRecord:
        image_id = self._image_ids[index]
        return LabelMapRecord(
            image=self._pictures / f"{image_id}.jpg",
            image_id=image_id,
            label_file=self._label_maps / f"{image_id}.png",
            meanings=self._meanings,
        )


def always_labelled(name: str, classes: Sequence[str]) -> tuple[str, ...]:
    """Those of a dataset's classes that are certainly not in a picture whose label map lacks them."""
    if not name.startswith("cocostuff"):
        return tuple(classes)
    return tuple(other for other in classes if "-" not in other and other not in COCO_NEVER_LABELLED)


def class_meanings(dataset: str, classes: Sequence[str]) -> dict[int, str | None]:
    """What the values of a dataset's label maps mean (spec gsva c.4); 255 is ignored in all of them."""
    if dataset == "ade20k":  # counts from 1; 0 is what has no class
        meanings = {0: None, **dict(enumerate(classes, start=1))}
    elif dataset == "cocostuff":  # "wall-brick" and the like aren't what people say
        meanings = {value: None if "-" in name else name for value, name in enumerate(classes)}
    else:
        meanings = dict(enumerate(classes))
    return {**meanings, 255: None}


def _read_mapillary_classes(file: epath.Path) -> tuple[str, ...]:
    """The readable names of Mapillary's classes in lower case, in the order of their values (spec gsva c.4)."""
    config = files.read_json(file)
    try:
        return tuple(label["readable"].lower() for label in config["labels"])
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not Mapillary's list of classes: {error!r}") from error
