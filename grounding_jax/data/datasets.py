"""Opens any dataset: a public one by the name that the release gives it, such as "grefcoco|unc|val", or one's own."""

from etils import epath

from grounding_jax.data.packed.source import PackedSource, is_packed, read_checksums
from grounding_jax.data.sources import instructions
from grounding_jax.data.sources.own_data import OWN_DATA
from grounding_jax.data.sources.registry import Source, find_dataset


def open_dataset(root: epath.PathLike, name: str) -> Source:
    """Opens one split for random access, one record per image or conversation (spec gsva c.4, f.1, g).

    Args:
        root: the folder that holds refer_seg/, reason_seg/, ade20k/, coco/, cocostuff/, mapillary/, vlpart/,
            llava_dataset/, entityseg/ and instructions/; or a packed folder, which gives the same records.
        name: name of a dataset in the `registry`; several splits of ReasonSeg joined like "ReasonSeg|train_val";
            "instructions|FILE|TASK", the entries of instructions/FILE.json for a task; or "jsonl|FILE", the file below
            `root` that lists pictures and expressions of one's own.

    Raises:
        FileNotFoundError: a file of the dataset is missing; only this dataset's files are looked at.
        ValueError: the name is unknown, or a file is damaged.
    """
    if is_packed(root) and not name.startswith(OWN_DATA):
        return PackedSource(root, name)
    return find_dataset(name).open(root, name)


def instruction_names(root: epath.PathLike) -> list[str]:
    """The names that the files of instructions of a folder have, whether or not they have entries for every task.

    Raises ValueError if a packed folder is damaged.
    """
    if is_packed(root):
        return [name for name in read_checksums(root) if name.startswith(instructions.INSTRUCTIONS)]
    files = sorted((epath.Path(root) / instructions.FOLDER).glob("*.json"))
    return [f"{instructions.INSTRUCTIONS}{file.stem}|{task}" for file in files for task in instructions.TASKS]
