"""Random access to Panoptic Narrative Grounding: captions whose phrases mean segments of COCO (spec gella e, f)."""

import dataclasses
import functools
import re
from collections.abc import Sequence

import msgspec
import numpy as np
from etils import epath

from grounding_jax.data.coco import Number
from grounding_jax.data.sources.panoptic import COCO_SPLITS, PanopticFiles, SegmentedPicture
from grounding_jax.files import records

NARRATIVE_DATASETS = tuple(f"png|{split}" for split in COCO_SPLITS)

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class NarrativeRecord(SegmentedPicture):
    """One caption of a picture with all its noun phrases; attributes are called as in `refer.Record`.

    Attributes:
        caption: the text.
        raw_expressions: the phrases, in the order of the caption.
        spans: for each phrase, its first character in the caption and the one after its last; None where the caption,
            which the dataset has separately, has no such words there.
        segment_ids: for each phrase, the segments that it means, which may be crowds; none where it is not grounded.
        families: for each phrase, its kind (such as "place"), or None if the dataset does not tell.
    """

    caption: str
    raw_expressions: tuple[str, ...]
    spans: tuple[Span | None, ...]
    segment_ids: tuple[tuple[int, ...], ...]
    families: tuple[str, ...] | None = None

    @property
    def grounded(self) -> tuple[bool, ...]:
        """For each phrase, whether it means any segment; the others are neither present nor absent, but unknown."""
        return tuple(bool(ids) for ids in self.segment_ids)

    @property
    def plural(self) -> tuple[bool, ...]:
        """For each phrase, whether it means several segments: how the metric splits them, not a word of grammar."""
        return tuple(len(ids) > 1 for ids in self.segment_ids)

    @property
    def things(self) -> tuple[bool | None, ...]:
        """For each phrase, whether it means things rather than stuff, by its last segment; None if not grounded."""
        isthing = {segment["id"]: bool(segment["isthing"]) for segment in self.segments}
        return tuple(isthing[ids[-1]] if ids else None for ids in self.segment_ids)

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [n, H, W]: the union of each phrase's segments, decoded at the first use."""
        return self.masks_of(range(len(self.segment_ids)))

    def masks_of(self, indices: Sequence[int]) -> np.ndarray:
        """bool [len(indices), H, W]: the masks of some phrases."""
        chosen = [np.isin(self.id_map, self.segment_ids[index]) for index in indices]
        return np.stack(chosen) if chosen else np.zeros((0, *self.size), bool)


class _Part(msgspec.Struct):
    """A piece of a caption; "noun" where it is a phrase. "family" is ours alone."""

    utterance: str
    noun: bool | int
    segment_ids: list[Number]
    family: str | None = None


class _Narrative(msgspec.Struct):
    image_id: Number
    caption: str
    segments: list[_Part]


class NarrativeSource:
    """One `NarrativeRecord` per caption, in the order of the file; a picture may have several."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the captions and the index of the panoptic split; pictures and PNGs are not opened.

        Args:
            root: the folder that holds coco/.
            name: one of `NARRATIVE_DATASETS`.

        Raises:
            FileNotFoundError: a json or the folder of the PNGs is missing.
            ValueError: the name is unknown, a json is damaged, or a caption is of a picture that has no segments.
        """
        if name not in NARRATIVE_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(NARRATIVE_DATASETS)}")
        self.name = name
        split = name.partition("|")[2]
        self._files = PanopticFiles(root, split)
        self._file = self._files.file.parent / f"png_coco_{split}.json"
        self._narratives = records.read(self._file, list[_Narrative])
        missing = {int(n.image_id) for n in self._narratives if int(n.image_id) not in self._files}
        if missing:
            raise ValueError(
                f"{self._files.file} lacks image {min(missing)}, which a caption of '{name}' is about"
                + (f" ({len(missing)} are missing)" if len(missing) > 1 else "")
            )

    def __len__(self) -> int:
        return len(self._narratives)

    def __getitem__(self, index: int) -> NarrativeRecord:
        narrative = self._narratives[index]
        image_id = int(narrative.image_id)
        picture = self._files.attributes(image_id)
        phrases = [part for part in narrative.segments if part.noun]
        segment_ids = tuple(tuple(map(int, part.segment_ids)) for part in phrases)
        known = {segment["id"] for segment in picture["segments"]}
        unknown = [number for ids in segment_ids for number in ids if number not in known]
        if unknown:
            raise ValueError(f"{self._file}: narrative {index} has segment {unknown[0]}, which image {image_id} lacks")
        families = tuple(part.family for part in phrases)
        return NarrativeRecord(
            **picture,
            caption=narrative.caption,
            raw_expressions=tuple(" ".join(part.utterance.split()) for part in phrases),
            spans=tuple(find_phrases(narrative.caption, [(p.utterance, bool(p.noun)) for p in narrative.segments])),
            segment_ids=segment_ids,
            families=None if None in families else families,
        )


def find_phrases(caption: str, parts: Sequence[tuple[str, bool]]) -> list[Span | None]:
    """Where the phrases of a caption are in it.

    The parts follow one another, but may differ from the caption in white space and now and then in words. A phrase
    that does not follow at once is looked for further on, as whole words.

    Args:
        caption: the text.
        parts: it in pieces, each with whether it is a phrase.

    Returns:
        For each phrase, its first character and the one after its last; None if the rest of the caption lacks it.
    """
    spans, end = [], 0
    for text, is_phrase in parts:
        letters = r"\s*".join(map(re.escape, "".join(text.split())))
        found = re.compile(rf"\s*({letters})", re.IGNORECASE).match(caption, end)
        if found is None and is_phrase:
            found = re.compile(rf"(?<!\w)({letters})(?!\w)", re.IGNORECASE).search(caption, end)
        span = found.span(1) if found and letters else None
        end = span[1] if span else end
        if is_phrase:
            spans.append(span)
    return spans
