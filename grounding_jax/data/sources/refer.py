"""Random access to referring-expression datasets: gRefCOCO, RefCOCO, RefCOCO+, RefCOCOg, RefCLEF, Ref-ZOM."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
from etils import epath

from grounding_jax.data import coco
from grounding_jax.data.entity_masks import Entities
from grounding_jax.files import masks, paths, records, regular
from grounding_jax.files.masks import Segmentation
from grounding_jax.files.pickles import read_plain_pickle

# Where each dataset's pictures lie below refer_seg/ (spec gsva g).
_MSCOCO = "images/mscoco/images/train2014"
_PICTURES = {"refclef": "images/saiapr_tc-12"}
# The file of expressions below refer_seg/DATASET/, as a pickle or as JSON: the first that is there is read.
_EXPRESSION_FILES = {"grefcoco": "grefs(unc)", "refzom": "Ref_ZOM", "refcocog": "refs(umd)"}
_DEFAULT_EXPRESSION_FILE = "refs(unc)"

# The splits by dataset and by whose division into splits it is, and the names of all datasets made of them.
REFER_SPLITS = {
    "grefcoco|unc": ("train", "val", "testA", "testB"),
    "refcoco|unc": ("train", "val", "testA", "testB", "test"),
    "refcoco+|unc": ("train", "val", "testA", "testB", "test"),
    "refcocog|umd": ("train", "val", "test"),
    "refclef|unc": ("train", "val", "testA", "testB", "testC", "test"),
    "refzom|final": ("train", "test"),
}
REFER_DATASETS = tuple(f"{dataset}|{split}" for dataset, splits in REFER_SPLITS.items() for split in splits)
# RefCOCO, RefCOCO+ and RefCOCOg: what is asked for is always there.
PRESENT_DATASETS = tuple(name for name in REFER_DATASETS if name.startswith("refcoco"))


@dataclasses.dataclass(frozen=True)
class Record:
    """One image with all its expressions (spec gsva c.4, c.6).

    Attributes:
        image: the picture file.
        size: (H, W) of the masks, from the annotations.
        raw_expressions: the texts as the dataset has them, which training samples from.
        targets: for each expression, the COCO segmentations of its instances; none where it is absent.
        image_id: the dataset's number of the image.
        ref_ids: for each expression, the dataset's number of the reference it belongs to.
        families: for each expression, its kind (such as "place"), or None if the dataset does not tell.
        instances: everything that is annotated in the picture but crowds, whether or not an expression means it, in the
            order of the file; None if the dataset does not tell.
        instance_ids: for each expression, the numbers of the instances that it means, which may be crowds; none where
            it is absent. None if the dataset does not tell.
    """

    image: regular.File
    size: tuple[int, int]
    raw_expressions: tuple[str, ...]
    targets: tuple[tuple[Segmentation, ...], ...]
    image_id: int
    ref_ids: tuple[int, ...]
    families: tuple[str, ...] | None = None
    instances: tuple[coco.Instance, ...] | None = None
    instance_ids: tuple[tuple[int, ...], ...] | None = None
    ignore: ClassVar[None] = None  # every pixel counts, other than in ReasonSeg

    @property
    def expressions(self) -> list[str]:
        """The texts as evaluation puts them into the prompt (spec gsva c.6)."""
        return [evaluation_text(text) for text in self.raw_expressions]

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [n, H, W], decoded at the first use."""
        return self.masks_of(range(len(self.targets)))

    def masks_of(self, indices: Sequence[int]) -> np.ndarray:
        """bool [len(indices), H, W]: the masks of some expressions."""
        chosen = [self._decoded(masks.union_mask, index) for index in indices]
        return np.stack(chosen) if chosen else np.zeros((0, *self.size), bool)

    @functools.cached_property
    def rejected(self) -> np.ndarray:
        """bool [n]: whether the expression's mask is empty, so that [REJ] is right."""
        return np.array([self._decoded(masks.union_is_empty, i) for i in range(len(self.targets))], bool)

    @property
    def entities(self) -> Entities:
        """The masks of all instances, decoded at each use; raises ValueError if there are none or one is damaged."""
        if self.instances is None:
            raise ValueError(f"nothing tells what else is in {self.image}; if that is packed, pack it again")
        found = np.zeros((len(self.instances), *self.size), bool)
        for mask, instance in zip(found, self.instances, strict=True):
            segmentation = coco.segmentation(instance.segmentation, instance.id, self.image)
            try:
                mask[:] = masks.decode_mask(segmentation, self.size)
            except ValueError as error:
                raise ValueError(f"the mask of annotation {instance.id} in {self.image} is damaged: {error}") from error
        ids = tuple(instance.id for instance in self.instances)
        return Entities(found, ids, tuple(map(str, ids)))

    def _decoded(self, function: Callable[..., Any], index: int) -> Any:
        """`function` of the segmentations of one expression; an error says which one it was."""
        try:
            return function(self.targets[index], self.size)
        except (TypeError, ValueError) as error:
            expression = self.raw_expressions[index]
            raise ValueError(f"the mask of '{expression}' in {self.image} is damaged: {error}") from error


class _Sentence(msgspec.Struct, frozen=True):
    sent: str


class _Reference(msgspec.Struct, frozen=True):
    """An entry of the file of expressions; "family" is ours alone."""

    ref_id: int
    ann_id: int | list[int]
    image_id: int
    split: str
    sentences: list[_Sentence]
    family: str | None = None

    @property
    def ann_ids(self) -> list[int]:
        """The instances that are meant; none where the target is absent, written as [-1] or []."""
        return [number for number in (self.ann_id if isinstance(self.ann_id, list) else [self.ann_id]) if number != -1]


class _Annotation(coco.Instance, frozen=True):
    image_id: coco.Number | None = None
    iscrowd: int | bool | None = None


class InstancesFile(msgspec.Struct, frozen=True):
    """What is read of instances.json."""

    images: list[coco.Image]
    annotations: list[_Annotation]


class ReferSource:
    """One `Record` per image of a dataset split, in the order of the image ids.

    The release takes the images in the order of a Python set of their ids, which is not the same everywhere
    (spec gsva h 25); expressions within an image are in the order of the file, as in the release.
    """

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the index of a split; pictures are not opened.

        Args:
            root: the folder that holds refer_seg/ (spec gsva g).
            name: one of `REFER_DATASETS`, such as "grefcoco|unc|val".

        Raises:
            FileNotFoundError: a file of the dataset is missing.
            ValueError: the name is unknown, or a file is damaged.
        """
        if name not in REFER_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(REFER_DATASETS)}")
        dataset, _, split = name.split("|")
        folder = epath.Path(root) / "refer_seg"
        self.name = name
        self._pictures = folder / _PICTURES.get(dataset, _MSCOCO)
        self._instances_file = folder / dataset / "instances.json"
        refs = _read_refs(folder / dataset, dataset)
        chosen = [ref for ref in refs if _in_split(ref.split, split, exact=dataset == "grefcoco")]
        if not chosen:
            present = ", ".join(sorted({ref.split for ref in refs}))
            raise ValueError(f"{folder / dataset} has no expressions of the split '{split}', only of {present}")
        self._refs_of_image: dict[int, list[_Reference]] = {}
        for ref in chosen:
            self._refs_of_image.setdefault(ref.image_id, []).append(ref)
        self._image_ids = sorted(self._refs_of_image)
        self._read_instances({ann_id for ref in chosen for ann_id in ref.ann_ids})

    def __len__(self) -> int:
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Record:
        image_id = self._image_ids[index]
        refs = self._refs_of_image[image_id]
        pairs = [(ref, sentence.sent) for ref in refs for sentence in ref.sentences]
        image = self._images[image_id]
        found = {
            ann_id: coco.segmentation(self._segmentations[ann_id], ann_id, self._instances_file)
            for ref in refs
            for ann_id in ref.ann_ids
        }
        families = tuple(ref.family for ref, _ in pairs)
        return Record(
            image=paths.below(self._pictures, image.file_name, self._instances_file),
            size=image.size,
            raw_expressions=tuple(text for _, text in pairs),
            targets=tuple(tuple(found[ann_id] for ann_id in ref.ann_ids) for ref, _ in pairs),
            image_id=image_id,
            ref_ids=tuple(ref.ref_id for ref, _ in pairs),
            families=None if None in families else families,
            instances=None if self._instances is None else tuple(self._instances[image_id]),
            instance_ids=tuple(tuple(ref.ann_ids) for ref, _ in pairs),
        )

    def _read_instances(self, ann_ids: set[int]) -> None:
        """Keeps what the split needs of instances.json, which may be hundreds of megabytes."""
        instances = records.read(self._instances_file, InstancesFile)
        images = records.unique(instances.images, "image", self._instances_file)
        annotations = records.unique(instances.annotations, "annotation", self._instances_file)
        missing = [f"image {image_id}" for image_id in self._image_ids if image_id not in images]
        missing += [f"annotation {ann_id}" for ann_id in sorted(ann_ids - annotations.keys())]
        if missing:
            raise ValueError(
                f"{self._instances_file} lacks {missing[0]}, which an expression of '{self.name}' refers to"
                + (f" ({len(missing)} are missing)" if len(missing) > 1 else "")
            )
        self._images = {image_id: images[image_id] for image_id in self._image_ids}
        # Copied out of the file, which would stay in memory for the sake of them otherwise.
        self._segmentations = {ann_id: annotations[ann_id].segmentation.copy() for ann_id in ann_ids}
        self._instances: dict[int, list[coco.Instance]] | None = {image_id: [] for image_id in self._image_ids}
        for ann_id, annotation in annotations.items():
            if annotation.image_id is None:  # then nothing is known of any picture
                self._instances = None
                return
            own = self._instances.get(int(annotation.image_id))
            if own is not None and not annotation.iscrowd:
                mask = self._segmentations.get(ann_id)
                own.append(coco.Instance(ann_id, annotation.segmentation.copy() if mask is None else mask))


def evaluation_text(text: str) -> str:
    """An expression as evaluation's prompt has it: lower case, no dots at its ends (spec gsva c.6)."""
    return text.strip().lower().strip(".")


def _read_refs(folder: epath.Path, dataset: str) -> list[_Reference]:
    """The references of a dataset."""
    name = _EXPRESSION_FILES.get(dataset, _DEFAULT_EXPRESSION_FILE)
    files = [folder / f"{name}{ending}" for ending in (".p", ".json")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        tried = " or ".join(map(str, files))
        raise FileNotFoundError(f"a file is missing: {tried}")
    if file.suffix == ".p":
        return records.convert(read_plain_pickle(file), list[_Reference], str(file))
    return records.read(file, list[_Reference])


def _in_split(ref_split: str, split: str, exact: bool) -> bool:
    """Whether a reference belongs to a split: testA, B, C by their letter, test any of them (spec gsva g)."""
    if exact or split in ("train", "val"):
        return ref_split == split
    return "test" in ref_split if split == "test" else split[-1] in ref_split
