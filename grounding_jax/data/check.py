"""Looks at datasets before anything is trained on them: what is there, how much, and whether it can be read."""

import dataclasses

from etils import epath

from grounding_jax.data.datasets import Source, open_dataset
from grounding_jax.data.llava_instruct import VqaRecord
from grounding_jax.data.packed import AnyRecord, PackedSource, Progress
from grounding_jax.data.refer import Record
from grounding_jax.data.semantic import ClassRecord, LabelMapRecord
from grounding_jax.files.pictures import open_picture

# How many pictures a split has by its publication, where that is known (spec gsva g).
PUBLISHED_PICTURES = {
    "grefcoco|unc|val": 1500,
    "grefcoco|unc|testA": 750,
    "grefcoco|unc|testB": 750,
    "refzom|final|train": 43_749,
    "refzom|final|test": 11_329,
    "ReasonSeg|train": 239,
    "ReasonSeg|val": 200,
    "ReasonSeg|test": 779,
}


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was found of a dataset.

    Attributes:
        name: the dataset.
        pictures: how many there are.
        expressions: how many there are: parts, in datasets of parts, or conversations; None in label maps, whose
            classes are not counted.
        drawn_nothing: how many expressions have masks that are listed but draw no pixel, so that they count as absent.
        problem: what is missing or damaged; None if nothing is.
    """

    name: str
    pictures: int = 0
    expressions: int | None = None
    drawn_nothing: int = 0
    problem: str | None = None


def check_dataset(root: epath.PathLike, name: str, progress: Progress) -> Checked:
    """Opens a dataset, counts what its index has, and reads one record; of a packed one, compares all checksums.

    Args:
        root: the folder of all datasets, or a packed folder.
        name: see `datasets.open_dataset`.
        progress: is told of the records.
    """
    try:
        source = open_dataset(root, name)
        if isinstance(source, PackedSource):
            source.verify(progress)
        checked = _count(source, progress)
        _read(source[0])
    except (OSError, ValueError) as error:
        return Checked(name, problem=str(error))
    return checked


def _count(source: Source, progress: Progress) -> Checked:
    """How many pictures and expressions there are.

    Raises:
        ValueError: none, or a record is damaged.
    """
    pictures, expressions, drawn_nothing = set(), 0, 0
    for index in range(len(source)):
        record = source[index]
        pictures.add(str(record.image))  # there may be several conversations about one
        expressions += 0 if isinstance(record, LabelMapRecord) else _num_expressions(record)
        if isinstance(record, Record):
            drawn_nothing += sum(
                bool(of) and absent for of, absent in zip(record.targets, record.rejected, strict=True)
            )
        progress(source.name, index + 1, len(source))
    if not pictures:
        raise ValueError(f"the dataset '{source.name}' has no records")
    counted = None if isinstance(record, LabelMapRecord) else expressions
    return Checked(source.name, len(pictures), counted, int(drawn_nothing))


def _num_expressions(record: AnyRecord) -> int:
    if isinstance(record, VqaRecord):
        return 1
    return len(record.wordings if isinstance(record, ClassRecord) else record.raw_expressions)


def _read(record: AnyRecord) -> None:
    """Decodes the picture and all masks of a record.

    Raises:
        FileNotFoundError, ValueError: one can't be read, or they differ in size.
    """
    size = open_picture(record.image).shape[:2]
    if isinstance(record, VqaRecord):
        return
    masks = record.masks_of(range(len(record.wordings))) if isinstance(record, ClassRecord) else record.masks
    if masks.shape[1:] != size:
        sizes = [" x ".join(map(str, shape)) for shape in (size, masks.shape[1:])]
        raise ValueError(f"{record.image} has {sizes[0]} pixels, but its annotation is for {sizes[1]}")
