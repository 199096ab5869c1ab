"""Looks at datasets before anything is trained on them: what is there, how much, and whether it can be read."""

import dataclasses

from etils import epath

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.packed.source import PackedSource, Progress
from grounding_jax.data.sources.instructions import InstructionRecord
from grounding_jax.data.sources.llava_instruct import VqaRecord
from grounding_jax.data.sources.refer import Record
from grounding_jax.data.sources.registry import AnyRecord, Source
from grounding_jax.data.sources.semantic import ClassRecord, LabelMapRecord
from grounding_jax.files.pictures import open_picture


@dataclasses.dataclass(frozen=True)
class Checked:
    """What was found of a dataset.

    Attributes:
        name: the dataset.
        pictures: number of pictures.
        expressions: number of expressions, of parts in datasets of parts, or of conversations; None in label maps,
            whose classes are not counted.
        drawn_nothing: number of expressions whose masks are listed but draw no pixel, so that they count as absent.
        problem: the thing that is missing or damaged; None if nothing is.
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
    pictures, expressions, drawn_nothing, labelled = set(), 0, 0, False
    for index in range(len(source)):
        record = source[index]
        pictures.add(str(record.image))  # there may be several conversations about one
        labelled = isinstance(record, LabelMapRecord)
        expressions += 0 if labelled else _num_expressions(record)
        if isinstance(record, Record):
            drawn_nothing += sum(
                bool(of) and absent for of, absent in zip(record.targets, record.rejected, strict=True)
            )
        progress(source.name, index + 1, len(source))
    if not pictures:
        raise ValueError(f"the dataset '{source.name}' has no records")
    return Checked(source.name, len(pictures), None if labelled else expressions, int(drawn_nothing))


def _num_expressions(record: AnyRecord) -> int:
    if isinstance(record, VqaRecord) or isinstance(record, InstructionRecord) and not record.raw_expressions:
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
