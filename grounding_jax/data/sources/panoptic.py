"""Random access to COCO's panoptic segmentation, and writing of one's own in its format (spec gella d, f)."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec
import numpy as np
from etils import epath

from grounding_jax.data import coco
from grounding_jax.data.entity_masks import Entities, label_entities
from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC, Category
from grounding_jax.data.sources.semantic import ClassRecord
from grounding_jax.files import paths, records, regular, writing
from grounding_jax.files.id_maps import check_segments, encode_id_map, label_folders, open_id_map

COCO_SPLITS = ("train2017", "val2017")
PANOPTIC_DATASETS = tuple(f"panoptic|{split}" for split in COCO_SPLITS)


class SegmentInfo(TypedDict):
    """What COCO's json tells of a segment."""

    id: int
    category_id: int
    iscrowd: NotRequired[int]
    area: NotRequired[float]
    bbox: NotRequired[list[float]]


class _Annotation(msgspec.Struct):
    image_id: coco.Number
    file_name: str
    segments_info: list[SegmentInfo]


class _PanopticJson(msgspec.Struct):
    categories: list[coco.Category]
    images: list[coco.Image]
    annotations: list[_Annotation]


@dataclasses.dataclass(frozen=True)
class SegmentedPicture:
    """A picture that is cut into segments; what is looked at is read at the first use.

    Attributes:
        image: the picture file.
        image_id: the dataset's number of the image.
        size: (H, W), from the annotations.
        label_file: the PNG with the number of a segment for each pixel.
        segments: the annotation's entry for each segment, crowds included: "id", "category_id", "iscrowd", "area",
            "bbox"; and of its category, "name" and "isthing".
    """

    image: regular.File
    image_id: int
    size: tuple[int, int]
    label_file: regular.File
    segments: tuple[dict[str, Any], ...]

    @functools.cached_property
    def id_map(self) -> np.ndarray:
        """int32 [H, W]: the number of each pixel's segment, 0 where it is void."""
        ids = open_id_map(self.label_file)
        if ids.shape != self.size:
            sizes = [" x ".join(map(str, size)) for size in (ids.shape, self.size)]
            raise ValueError(f"{self.label_file} has {sizes[0]} pixels, but its annotation is for {sizes[1]}")
        listed = [segment["id"] for segment in self.segments]
        check_segments(ids, listed, self.label_file, self._where)
        return ids

    @property
    def entities(self) -> Entities:
        """Every segment that is not a crowd, in the order of the annotation."""
        numbers = np.array([segment["id"] for segment in self._entities], np.int32)
        names = {segment["category_id"]: segment["name"] for segment in self._entities}
        return label_entities(self.id_map == numbers[:, None, None], self._entities, names, self._where)

    @functools.cached_property
    def _entities(self) -> tuple[dict[str, Any], ...]:
        return tuple(segment for segment in self.segments if not segment.get("iscrowd"))

    @property
    def _where(self) -> str:
        return f"the annotation of image {self.image_id}"


class PanopticRecord(SegmentedPicture, ClassRecord):
    """The candidates are the entities, so that a name may be there several times."""

    @property
    def wordings(self) -> tuple[tuple[str, ...], ...]:
        """What people call the category of each entity."""
        return tuple((_category(segment).spoken,) for segment in self._entities)

    def _mask(self, index: int) -> np.ndarray:
        return self.id_map == self._entities[index]["id"]


class PanopticFiles:
    """A split of COCO in the panoptic layout, which several datasets are made of.

    Attributes:
        file: the json.
        image_ids: the pictures that have an annotation, in ascending order.
        categories: those of the json.
    """

    def __init__(self, root: epath.PathLike, split: str):
        """Reads the json; pictures and PNGs are not opened.

        Args:
            root: the folder that holds coco/.
            split: one of `COCO_SPLITS`.

        Raises:
            FileNotFoundError: the json or the folder of its PNGs is missing.
            ValueError: the json is damaged, or its categories have COCO's numbers but not COCO's names.
        """
        self.file = epath.Path(root) / "coco" / "annotations" / f"panoptic_{split}.json"
        self._pictures = epath.Path(root) / "coco" / split
        content = records.read(self.file, _PanopticJson)
        categories = records.unique(content.categories, "category", self.file).values()
        self.categories = tuple(Category(c.id, c.name, bool(c.isthing)) for c in categories)
        self._images = records.unique(content.images, "image", self.file)
        self._annotations: dict[int, _Annotation] = {}
        for annotation in content.annotations:
            if self._annotations.setdefault(int(annotation.image_id), annotation) is not annotation:
                raise ValueError(f"{self.file} has the segments of image {annotation.image_id} twice")
        check_coco(self.categories, self.file)
        self.image_ids = sorted(self._annotations)
        for image_id in self.image_ids:
            if image_id not in self._images:
                raise ValueError(f"{self.file} lacks image {image_id}, which an annotation belongs to")
        folders = label_folders(self.file)[:2]
        self._label_maps = next((folder for folder in folders if folder.exists()), None)
        if self._label_maps is None:
            tried = " or ".join(map(str, folders))
            raise FileNotFoundError(f"the folder with the PNGs of {self.file} is missing: {tried}")

    def __contains__(self, image_id: int) -> bool:
        return image_id in self._annotations

    def attributes(self, image_id: int) -> dict[str, Any]:
        """The attributes of a `SegmentedPicture`.

        Raises ValueError if a segment has a category that the json does not list, or a file is not in its folder.
        """
        image, annotation = self._images[image_id], self._annotations[image_id]
        categories = {category.id: category for category in self.categories}
        unknown = {segment["category_id"] for segment in annotation.segments_info} - categories.keys()
        if unknown:
            raise ValueError(f"{self.file} lacks category {min(unknown)}, which a segment of image {image_id} has")
        return {
            "image": paths.below(self._pictures, image.file_name, self.file),
            "image_id": image_id,
            "size": image.size,
            "label_file": paths.below(self._label_maps, annotation.file_name, self.file),
            "segments": tuple(_describe(s, categories[s["category_id"]]) for s in annotation.segments_info),
        }


class PanopticSource:
    """One `PanopticRecord` per image of a split, in the order of the image ids.

    Attributes:
        name: the dataset and its split.
        categories: those of the json.
    """

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the index of a split; pictures and PNGs are not opened.

        Args:
            root: the folder that holds coco/.
            name: one of `PANOPTIC_DATASETS`.

        Raises: see `PanopticFiles`; ValueError, too, if the name is unknown.
        """
        if name not in PANOPTIC_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(PANOPTIC_DATASETS)}")
        self.name = name
        self._files = PanopticFiles(root, name.partition("|")[2])
        self.categories = self._files.categories

    def __len__(self) -> int:
        return len(self._files.image_ids)

    def __getitem__(self, index: int) -> PanopticRecord:
        return PanopticRecord(**self._files.attributes(self._files.image_ids[index]))


def check_coco(categories: Sequence[Category], file: epath.Path) -> None:
    """Checks that categories with COCO's numbers are COCO's; other datasets may have the layout, too.

    Raises ValueError if they have exactly the numbers of COCO, but one has another name or another kind.
    """
    if {category.id for category in categories} != {category.id for category in COCO_PANOPTIC}:
        return
    ours = {category.id: category for category in COCO_PANOPTIC}
    for category in categories:
        if category != ours[category.id]:
            raise ValueError(f"{file} has {category}, but COCO has {ours[category.id]}")


def read_categories(file: epath.PathLike) -> tuple[Category, ...]:
    """The categories of COCO's json, or of a list of them; ValueError if the file is neither, or a number is twice."""
    try:
        content = records.read(file, coco.Categories | list[coco.Category])
    except ValueError as error:
        example = '{"id": 1, "name": "sky", "isthing": 0}'
        raise ValueError(f"{error}; it should be a list of categories like {example}, as COCO has them") from error
    listed = content if isinstance(content, list) else content.categories
    found = records.unique(listed, "category", epath.Path(file)).values()
    return tuple(Category(c.id, c.name, bool(c.isthing)) for c in found)


def _describe(segment: Mapping[str, Any], category: Category) -> dict[str, Any]:
    return {**segment, "name": category.name, "isthing": category.isthing}


def _category(segment: Mapping[str, Any]) -> Category:
    return Category(segment["category_id"], segment["name"], segment["isthing"])


class PanopticMap(NamedTuple):
    """A panoptic segmentation of one picture.

    Attributes:
        image_id: the number of the picture.
        file_name: file name of the picture.
        ids: int [H, W]: the number of each pixel's segment, 0 where it is void.
        category_ids: for each segment, the number of its category.
    """

    image_id: int
    file_name: str
    ids: np.ndarray
    category_ids: Mapping[int, int]


def write_panoptic(
    folder: epath.PathLike, name: str, pictures: Iterable[PanopticMap], categories: Sequence[Category] = COCO_PANOPTIC
) -> None:
    """Writes NAME.json and a PNG for each picture in the folder NAME, as in COCO's archive.

    With the name "panoptic_val2017" in the folder coco/annotations, `PanopticSource` reads it as "panoptic|val2017".

    Args:
        folder: folder for the results.
        name: name of the json and of the folder of PNGs.
        pictures: taken one after the other.
        categories: categories of the segments.

    Raises ValueError if a segment has no category, or a category no segment, or if two pictures are called the same.
    """
    labels, images, annotations = epath.Path(folder) / name, [], {}
    labels.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        label_file = f"{epath.Path(picture.file_name).stem}.png"
        if label_file in annotations:
            raise ValueError(f"two pictures would have the segments {labels / label_file}")
        image, annotations[label_file] = coco_entries(picture, label_file, categories)
        images.append(image)
        writing.write_bytes(labels / label_file, encode_id_map(picture.ids))
    content = coco_content(images, list(annotations.values()), categories)
    writing.write_json(labels.parent / f"{name}.json", content)


def coco_content(images: list[dict], annotations: list[dict], categories: Sequence[Category]) -> dict[str, Any]:
    """COCO's panoptic json of what `coco_entries` gives for each picture."""
    listed = [category._asdict() | {"isthing": int(category.isthing)} for category in categories]
    return {"images": images, "annotations": annotations, "categories": listed}


def coco_entries(
    picture: PanopticMap, label_file: str, categories: Sequence[Category] = COCO_PANOPTIC
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What COCO's json tells of a picture in "images" and in "annotations"; errors as of `segments_info`.

    Args:
        picture: with its segments.
        label_file: the name of its PNG.
        categories: categories of the segments.
    """
    height, width = picture.ids.shape
    image = {"id": picture.image_id, "file_name": picture.file_name, "height": height, "width": width}
    info = segments_info(picture, categories)
    return image, {"image_id": picture.image_id, "file_name": label_file, "segments_info": info}


def segments_info(picture: PanopticMap, categories: Sequence[Category] = COCO_PANOPTIC) -> list[dict[str, Any]]:
    """What COCO's json tells of each segment; none is a crowd.

    Raises ValueError if a segment has no category, or a category no segment, or if it is not one of `categories`.
    """
    where = f"the list of categories of '{picture.file_name}'"
    check_segments(picture.ids, picture.category_ids, f"the segmentation of '{picture.file_name}'", where)
    isthing = {category.id: int(category.isthing) for category in categories}
    described = []
    for number, category_id in picture.category_ids.items():
        if category_id not in isthing:
            raise ValueError(f"{where} has {category_id}, which is not the number of a category")
        mask = picture.ids == number
        (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
        described.append(
            {
                "id": number,
                "category_id": category_id,
                "isthing": isthing[category_id],
                "area": int(mask.sum()),
                "bbox": [int(left), int(top), int(right - left) + 1, int(bottom - top) + 1],
                "iscrowd": 0,
            }
        )
    return described
