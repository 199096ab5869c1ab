"""Opens any public dataset by the name that the release gives it, such as "grefcoco|unc|val"."""

from etils import epath

from grounding_jax.data.reasonseg import REASONSEG_DATASETS, REASONSEG_SPLITS, ReasonSegSource
from grounding_jax.data.refer import REFER_DATASETS, REFER_SPLITS, ReferSource

KNOWN_DATASETS = (*REFER_DATASETS, *REASONSEG_DATASETS)


def open_dataset(root: epath.PathLike, name: str) -> ReferSource | ReasonSegSource:
    """Opens one split for random access, one record per image (spec gsva f.1, g).

    Args:
        root: the folder that holds refer_seg/ and reason_seg/.
        name: one of `KNOWN_DATASETS`, or several splits of ReasonSeg joined like "ReasonSeg|train_val".

    Raises:
        FileNotFoundError: a file of the dataset is missing; only this dataset's files are looked at.
        ValueError: the name is unknown, or a file is damaged.
    """
    if name in REFER_DATASETS:
        return ReferSource(root, name)
    if name.startswith("ReasonSeg|"):
        return ReasonSegSource(root, name)
    known = [f"{dataset}|{'/'.join(splits)}" for dataset, splits in REFER_SPLITS.items()]
    known.append(f"ReasonSeg|{'/'.join(REASONSEG_SPLITS)}")
    raise ValueError(f"unknown dataset '{name}'; the known ones are {', '.join(known)}")
