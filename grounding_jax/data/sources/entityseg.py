"""Random access to entities without classes: EntitySeg, and those of COCO's panoptic segmentation (spec gella f)."""

import dataclasses
from collections.abc import Sequence

from etils import epath

from grounding_jax.data import files
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.sources.panoptic import COCO_SPLITS, PanopticFiles, PanopticRecord
from grounding_jax.data.sources.parts import PartRecord

ENTITYSEG_DATASETS = tuple(f"entityseg|{split}" for split in ("train", "val", "train_lr", "val_lr"))
COCO_ENTITY_DATASETS = tuple(f"coco_entity|{split}" for split in COCO_SPLITS)


@dataclasses.dataclass(frozen=True)
class EntityRecord(PartRecord):
    """The candidates are entities, which are called by their numbers: "entity 7".

    Attributes:
        ids: for each, its number in the file.
        areas: for each, how many pixels it has by the file.
    """

    ids: tuple[int, ...]
    areas: tuple[float, ...]

    @property
    def entities(self) -> Entities:
        """The masks with their numbers."""
        return Entities(self.masks_of(range(len(self.ids))), self.ids, tuple(map(str, self.ids)))


class EntitySegSource:
    """One `EntityRecord` per image of a split, in the order of the image ids; the classes are not looked at."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the index of a split; pictures are not opened.

        Args:
            root: the folder that holds entityseg/.
            name: one of `ENTITYSEG_DATASETS`; those with "_lr" have the pictures of the release that are made smaller.

        Raises:
            FileNotFoundError: the annotation file is missing.
            ValueError: the name is unknown, or the annotation file is damaged.
        """
        if name not in ENTITYSEG_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(ENTITYSEG_DATASETS)}")
        self.name = name
        split, folder = name.partition("|")[2], epath.Path(root) / "entityseg"
        self._pictures = folder / ("images_lr" if split.endswith("_lr") else "images")
        file = folder / "annotations" / "entity_segmentation" / f"entityv2_010203_entity_{split}.json"
        dataset = files.read_json(file)
        try:
            images = {i["id"]: (i["file_name"], (i["height"], i["width"])) for i in dataset["images"]}
            keys = ("image_id", "id", "area", "segmentation")
            annotations = [[a[key] for key in keys] for a in dataset["annotations"] if not a.get("iscrowd")]
            self._images = sorted(images.items())
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file} is not a COCO annotation file: {error!r}") from error
        self._entities: dict[int, list[tuple[int, float, list | dict]]] = {image_id: [] for image_id in images}
        for image_id, *entity in annotations:
            if image_id not in images:
                raise ValueError(f"{file} lacks image {image_id}, which annotation {entity[0]} belongs to")
            self._entities[image_id].append(tuple(entity))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> EntityRecord:
        image_id, (file_name, size) = self._images[index]
        entities = self._entities[image_id]
        return EntityRecord(
            image=self._pictures / file_name,
            image_id=image_id,
            size=size,
            wordings=_wordings([number for number, _, _ in entities]),
            segmentations=tuple(segmentation for _, _, segmentation in entities),
            ids=tuple(number for number, _, _ in entities),
            areas=tuple(area for _, area, _ in entities),
        )


class CocoEntityRecord(PanopticRecord):
    """A `PanopticRecord` that does not tell the categories."""

    @property
    def wordings(self) -> tuple[tuple[str, ...], ...]:
        """ "entity 7" and so on."""
        return _wordings([segment["id"] for segment in self._entities])

    @property
    def entities(self) -> Entities:
        """Every segment that is not a crowd."""
        known = super().entities
        return Entities(known.masks, known.ids, tuple(map(str, known.ids)))

    @property
    def areas(self) -> tuple[float, ...]:
        """For each entity, the area that its size (small, medium, large) follows from: that of the box between the
        centres of its outermost pixels, as in the conversion by EntitySeg's authors (spec gella e)."""
        boxes = (segment["bbox"] for segment in self._entities)
        return tuple((width - 1) * (height - 1) for _, _, width, height in boxes)


class CocoEntitySource:
    """One `CocoEntityRecord` per image of a split, in the order of the image ids."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the index of a split; pictures and PNGs are not opened.

        Args:
            root: the folder that holds coco/.
            name: one of `COCO_ENTITY_DATASETS`.

        Raises: see `PanopticFiles`; ValueError, too, if the name is unknown.
        """
        if name not in COCO_ENTITY_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(COCO_ENTITY_DATASETS)}")
        self.name = name
        self._files = PanopticFiles(root, name.partition("|")[2])

    def __len__(self) -> int:
        return len(self._files.image_ids)

    def __getitem__(self, index: int) -> CocoEntityRecord:
        return CocoEntityRecord(**self._files.attributes(self._files.image_ids[index]))


def _wordings(ids: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    return tuple((f"entity {number}",) for number in ids)
