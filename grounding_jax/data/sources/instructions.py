"""Random access to instruction data: descriptions, nouns and what they mean, of anybody's pictures (spec gella f)."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import msgspec
import numpy as np
from etils import epath

from grounding_jax.data.entity_masks import Entities, read_masks
from grounding_jax.data.sources.narratives import Span
from grounding_jax.files import masks, paths, pictures, records, regular
from grounding_jax.files.masks import RunLengths

# "instructions|train|ground" are the entries of instructions/train.json that are for the task "ground".
INSTRUCTIONS = "instructions|"
FOLDER = "instructions"
TASKS = ("describe", "nouns", "ground")
_NAME = re.compile(rf"instructions\|([a-z0-9_]+)\|({'|'.join(TASKS)})")

Words = Annotated[str, msgspec.Meta(pattern=r"\S")]


@dataclasses.dataclass(frozen=True)
class InstructionRecord:
    """A caption of a picture, its nouns, and which masks they mean; attributes are called as in `NarrativeRecord`.

    Attributes:
        image: the picture file.
        id: number or text that the entry has in its file.
        size: (H, W) of the picture.
        caption: the text.
        raw_expressions: the nouns, in the order of the file.
        spans: for each noun, its first character in the caption and the one after its last.
        segment_ids: for each noun, the numbers of the masks that it means; none where that is not told.
        ids: numbers of the masks; None where there are none.
        segmentations: COCO run lengths of each of these masks.
    """

    image: regular.File
    id: int | str
    size: tuple[int, int]
    caption: str
    raw_expressions: tuple[str, ...]
    spans: tuple[Span, ...]
    segment_ids: tuple[tuple[int, ...], ...]
    ids: tuple[int, ...] | None
    segmentations: tuple[RunLengths, ...]

    image_id: ClassVar[None] = None  # pictures are told apart by the names of their files

    @property
    def entities(self) -> Entities | None:
        """The masks, decoded at each use."""
        if self.ids is None:
            return None
        found = np.array([masks.decode_mask(one, self.size) for one in self.segmentations], bool)
        return Entities(found, self.ids, tuple(map(str, self.ids)))

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [n, H, W]: the union of what each noun means."""
        return self.masks_of(range(len(self.segment_ids)))

    def masks_of(self, indices: Sequence[int]) -> np.ndarray:
        """bool [len(indices), H, W]: the masks of some nouns."""
        place = {number: place for place, number in enumerate(self.ids or ())}
        chosen = [
            masks.union_mask([self.segmentations[place[number]] for number in self.segment_ids[index]], self.size)
            for index in indices
        ]
        return np.stack(chosen) if chosen else np.zeros((0, *self.size), bool)


class _Noun(msgspec.Struct, forbid_unknown_fields=True):
    text: Words
    start: int
    end: int
    segment_ids: list[int] = []


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    id: int | str
    image: Annotated[str, msgspec.Meta(min_length=1)]
    task: Literal["describe", "nouns", "ground"]
    caption: Words
    nouns: list[_Noun] = []
    masks: str | None = None


class InstructionSource:
    """One `InstructionRecord` per entry of a file that is for a task, in the order of the file."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the file; pictures and masks are not opened.

        Args:
            root: the folder that holds instructions/, and all files that entries name.
            name: such as "instructions|train|ground", for instructions/train.json.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the name is none, the file is damaged, or has no entry for the task.
        """
        named = _NAME.fullmatch(name)
        if named is None:
            raise ValueError(
                f"unknown dataset '{name}': instructions/FILE.json is instructions|FILE|TASK, with a task of "
                f"{', '.join(TASKS)}, and small letters, digits and _ in the file's name"
            )
        self.name = name
        self._root, (stem, task) = epath.Path(root), named.groups()
        self._file = self._root / FOLDER / f"{stem}.json"
        entries = enumerate(records.read(self._file, list[_Entry]))
        self._entries = [(place, entry) for place, entry in entries if entry.task == task]
        if not self._entries:
            raise ValueError(f"{self._file} has no entry for the task '{task}'")

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> InstructionRecord:
        place, entry = self._entries[index]
        try:
            return self._record(entry)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file}, entry {place} (id {entry.id!r}): {error}") from error

    def _record(self, entry: _Entry) -> InstructionRecord:
        if entry.task != "describe" and not entry.nouns:
            raise ValueError(f"has no nouns, which the task '{entry.task}' needs")
        if entry.task == "ground" and entry.masks is None:
            raise ValueError("has no masks, which the task 'ground' needs")
        image = paths.below(self._root, entry.image, self._file)
        size, ids, segmentations = pictures.picture_size(image), None, ()
        if entry.masks is not None:
            found = read_masks(paths.below(self._root, entry.masks, self._file), size, name=image.name)
            ids, segmentations = found.ids, tuple(map(masks.encode_mask, found.masks))
        for noun in entry.nouns:
            _check(noun, entry, ids or ())
        return InstructionRecord(
            image=image,
            id=entry.id,
            size=size,
            caption=entry.caption,
            raw_expressions=tuple(noun.text for noun in entry.nouns),
            spans=tuple((noun.start, noun.end) for noun in entry.nouns),
            segment_ids=tuple(tuple(noun.segment_ids) for noun in entry.nouns),
            ids=ids,
            segmentations=segmentations,
        )


def _check(noun: _Noun, entry: _Entry, ids: Sequence[int]) -> None:
    """Raises ValueError if a noun is not where the caption is said to have it, or means a mask that is not there."""
    there = entry.caption[noun.start : noun.end] if 0 <= noun.start < noun.end <= len(entry.caption) else ""
    if _letters(there) != _letters(noun.text):
        raise ValueError(f"the caption has {there!r} from {noun.start} to {noun.end}, where {noun.text!r} should be")
    missing = [number for number in noun.segment_ids if number not in ids]
    if missing:
        where = "without masks" if entry.masks is None else f"which {entry.masks} lacks; crowds are left out"
        raise ValueError(f"{noun.text!r} means segment {missing[0]}, {where}")


def _letters(text: str) -> str:
    """A text as far as it is compared: without regard to upper and lower case and to white space."""
    return " ".join(text.casefold().split())
