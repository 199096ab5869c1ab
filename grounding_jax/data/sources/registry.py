"""The registry of datasets: what each is called, what opens it, and what is known of it.

A new dataset is a module with a source and one entry here; nothing else in the package lists them.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from etils import epath

from grounding_jax.data.sources.entityseg import (
    COCO_ENTITY_DATASETS,
    ENTITYSEG_DATASETS,
    CocoEntityRecord,
    CocoEntitySource,
    EntityRecord,
    EntitySegSource,
)
from grounding_jax.data.sources.instructions import INSTRUCTIONS, InstructionRecord, InstructionSource
from grounding_jax.data.sources.llava_instruct import LLAVA_DATASETS, LlavaInstructSource, VqaRecord
from grounding_jax.data.sources.narratives import NARRATIVE_DATASETS, NarrativeRecord, NarrativeSource
from grounding_jax.data.sources.own_data import OWN_DATA, OwnSource
from grounding_jax.data.sources.panoptic import PANOPTIC_DATASETS, PanopticRecord, PanopticSource
from grounding_jax.data.sources.parts import PART_DATASETS, PartRecord, PartSource
from grounding_jax.data.sources.reasonseg import REASONSEG_DATASETS, ReasonRecord, ReasonSegSource
from grounding_jax.data.sources.refer import REFER_DATASETS, Record, ReferSource
from grounding_jax.data.sources.semantic import SEMANTIC_DATASETS, LabelMapRecord, LabelMapSource
from grounding_jax.files.regular import File


class AnyRecord(Protocol):
    """What the records of all datasets have in common: a picture."""

    image: File


class Source(Protocol):
    """One split of a dataset in random access: one record per image or conversation.

    Attributes:
        name: the dataset and its split.
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> AnyRecord: ...


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A dataset in all its splits.

    Attributes:
        names: names of the splits, such as "grefcoco|unc|val".
        open: ``(root, name) -> Source``.
        record: the class of its records.
        prefix: beginning of the names that it opens besides: files of one's own, or several splits joined.
        of_entities: True if it is about entities and captions about them (spec gella f).
        pictures: numbers of pictures of splits by their publication, where they are known.
    """

    names: tuple[str, ...]
    open: Callable[[epath.PathLike, str], Source]
    record: type
    prefix: str | None = None
    of_entities: bool = False
    pictures: Mapping[str, int] = dataclasses.field(default_factory=dict)


REGISTRY = (
    Dataset(
        REFER_DATASETS,
        ReferSource,
        Record,
        pictures={  # spec gsva g
            "grefcoco|unc|val": 1500,
            "grefcoco|unc|testA": 750,
            "grefcoco|unc|testB": 750,
            "refzom|final|train": 43_749,
            "refzom|final|test": 11_329,
        },
    ),
    Dataset(
        REASONSEG_DATASETS,
        ReasonSegSource,
        ReasonRecord,
        prefix="ReasonSeg|",
        pictures={"ReasonSeg|train": 239, "ReasonSeg|val": 200, "ReasonSeg|test": 779},
    ),
    Dataset(SEMANTIC_DATASETS, LabelMapSource, LabelMapRecord),
    Dataset(PART_DATASETS, PartSource, PartRecord),
    Dataset(LLAVA_DATASETS, LlavaInstructSource, VqaRecord),
    Dataset(PANOPTIC_DATASETS, PanopticSource, PanopticRecord, of_entities=True),
    Dataset(NARRATIVE_DATASETS, NarrativeSource, NarrativeRecord, of_entities=True),
    Dataset(ENTITYSEG_DATASETS, EntitySegSource, EntityRecord, of_entities=True),
    Dataset(COCO_ENTITY_DATASETS, CocoEntitySource, CocoEntityRecord, of_entities=True),
    Dataset((), InstructionSource, InstructionRecord, prefix=INSTRUCTIONS, of_entities=True),
    Dataset((), OwnSource, Record, prefix=OWN_DATA),
)

ENTITY_DATASETS = tuple(name for dataset in REGISTRY if dataset.of_entities for name in dataset.names)
KNOWN_DATASETS = tuple(name for dataset in REGISTRY if not dataset.of_entities for name in dataset.names)
PUBLISHED_PICTURES = {name: number for dataset in REGISTRY for name, number in dataset.pictures.items()}
RECORDS = {dataset.record.__name__: dataset.record for dataset in REGISTRY}


def find_dataset(name: str) -> Dataset:
    """The dataset that a split is of; raises ValueError if there is none."""
    for dataset in REGISTRY:
        if name in dataset.names or (dataset.prefix and name.startswith(dataset.prefix)):
            return dataset
    known = listed((*KNOWN_DATASETS, *ENTITY_DATASETS))
    own = f"{INSTRUCTIONS}FILE|TASK and {OWN_DATA}FILE for one's own"
    raise ValueError(f"unknown dataset '{name}'; the known ones are {known}, and {own}")


def listed(names: Iterable[str]) -> str:
    """Names of datasets as a text, with the splits of each together: "refzom|final|train/test"."""
    groups = itertools.groupby(names, lambda name: name.rpartition("|")[:2])
    return ", ".join(
        "".join(dataset) + "/".join(name.removeprefix("".join(dataset)) for name in splits)
        for dataset, splits in groups
    )
