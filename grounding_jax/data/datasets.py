"""Opens any dataset: a public one by the name that the release gives it, such as "grefcoco|unc|val", or one's own."""

from etils import epath

from grounding_jax.data.entityseg import COCO_ENTITY_DATASETS, ENTITYSEG_DATASETS, CocoEntitySource, EntitySegSource
from grounding_jax.data.llava_instruct import LLAVA_DATASETS, LlavaInstructSource
from grounding_jax.data.narratives import NARRATIVE_DATASETS, NarrativeSource
from grounding_jax.data.own_data import OWN_DATA, OwnSource
from grounding_jax.data.packed import PackedSource, is_packed
from grounding_jax.data.panoptic import PANOPTIC_DATASETS, PanopticSource
from grounding_jax.data.parts import PART_DATASETS, PartSource
from grounding_jax.data.reasonseg import REASONSEG_DATASETS, REASONSEG_SPLITS, ReasonSegSource
from grounding_jax.data.refer import REFER_DATASETS, REFER_SPLITS, ReferSource
from grounding_jax.data.semantic import SEMANTIC_DATASETS, LabelMapSource

KNOWN_DATASETS = (*REFER_DATASETS, *REASONSEG_DATASETS, *SEMANTIC_DATASETS, *PART_DATASETS, *LLAVA_DATASETS)
# Those of entities and of captions about them (spec gella f), whose metrics are of another kind.
ENTITY_DATASETS = (*PANOPTIC_DATASETS, *NARRATIVE_DATASETS, *ENTITYSEG_DATASETS, *COCO_ENTITY_DATASETS)
# What there are metrics for (spec gsva f); the others are there to train on.
EVALUATED_DATASETS = (*REFER_DATASETS, *REASONSEG_DATASETS, "ade20k|validation")

# The same as a text for errors, with the splits of a dataset together.
_REFER_AND_REASONSEG = ", ".join(
    f"{dataset}|{'/'.join(splits)}" for dataset, splits in {**REFER_SPLITS, "ReasonSeg": REASONSEG_SPLITS}.items()
)

EntitySource = PanopticSource | NarrativeSource | EntitySegSource | CocoEntitySource
Source = (
    ReferSource
    | ReasonSegSource
    | LabelMapSource
    | PartSource
    | LlavaInstructSource
    | EntitySource
    | OwnSource
    | PackedSource
)


def open_dataset(root: epath.PathLike, name: str) -> Source:
    """Opens one split for random access, one record per image or conversation (spec gsva c.4, f.1, g).

    Args:
        root: the folder that holds refer_seg/, reason_seg/, ade20k/, coco/, cocostuff/, mapillary/, vlpart/,
            llava_dataset/ and entityseg/; or a packed folder, which gives the same records.
        name: one of `KNOWN_DATASETS` or `ENTITY_DATASETS`; several splits of ReasonSeg joined like
            "ReasonSeg|train_val"; or "jsonl|FILE", the file below `root` that lists pictures and expressions of one's
            own.

    Raises:
        FileNotFoundError: a file of the dataset is missing; only this dataset's files are looked at.
        ValueError: the name is unknown, or a file is damaged.
    """
    if name.startswith(OWN_DATA):
        return OwnSource(root, name)
    if is_packed(root):
        return PackedSource(root, name)
    if name in REFER_DATASETS:
        return ReferSource(root, name)
    if name.startswith("ReasonSeg|"):
        return ReasonSegSource(root, name)
    if name in SEMANTIC_DATASETS:
        return LabelMapSource(root, name)
    if name in PART_DATASETS:
        return PartSource(root, name)
    if name in LLAVA_DATASETS:
        return LlavaInstructSource(root, name)
    if name in PANOPTIC_DATASETS:
        return PanopticSource(root, name)
    if name in NARRATIVE_DATASETS:
        return NarrativeSource(root, name)
    if name in ENTITYSEG_DATASETS:
        return EntitySegSource(root, name)
    if name in COCO_ENTITY_DATASETS:
        return CocoEntitySource(root, name)
    others = ", ".join((*SEMANTIC_DATASETS, *PART_DATASETS, *LLAVA_DATASETS, *ENTITY_DATASETS))
    known = f"{_REFER_AND_REASONSEG}, {others}, and {OWN_DATA}FILE for one's own"
    raise ValueError(f"unknown dataset '{name}'; the known ones are {known}")


def check_evaluated(name: str) -> None:
    """Raises ValueError for a known dataset that there are no metrics for."""
    if name in (*KNOWN_DATASETS, *ENTITY_DATASETS) and name not in EVALUATED_DATASETS:
        listed = f"{_REFER_AND_REASONSEG}, ade20k|validation"
        raise ValueError(f"'{name}' can't be evaluated; the datasets that can are {listed}")
