"""What `gsva data` and `gella data` print while they check and pack datasets."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from etils import epath
from rich.console import Console
from rich.table import Table

from grounding_jax.data.check import Checked, check_dataset
from grounding_jax.data.sources.registry import PUBLISHED_PICTURES
from grounding_jax.terminal import counting, say


def show_datasets(root: epath.PathLike, names: Iterable[str]) -> set[str]:
    """Checks datasets, and prints what is there and what is wrong with the others.

    Args:
        root: the folder of all datasets, or a packed folder.
        names: see `datasets.open_dataset`.

    Returns:
        The names of those that are whole.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if not epath.Path(root).is_dir():
        raise FileNotFoundError(f"there is no folder {root}")
    with counting() as progress:
        found = [check_dataset(root, name, progress) for name in names]
    whole = [checked for checked in found if checked.problem is None]
    if whole:
        Console().print(_table(whole))
    for checked in whole:
        if checked.drawn_nothing:
            say(f"{checked.name}: {checked.drawn_nothing} expressions have masks without a pixel: they count as absent")
    for line in _problems([checked for checked in found if checked.problem is not None]):
        say(line)
    return {checked.name for checked in whole}


def pack_datasets(root: epath.PathLike, out: epath.PathLike, names: Sequence[str], workers: int) -> tuple[int, int]:
    """Packs datasets, and prints how it ended for each; arguments and errors as for `packing.prepare`.

    Returns:
        How many there are, and how many of them are packed.
    """
    if workers < 1:
        raise ValueError(f"--workers {workers}: must be at least 1")
    from grounding_jax.data.packed.packing import prepare  # takes seconds

    ended = []
    with counting() as progress:
        for packed in prepare(root, out, names, workers, progress):
            ended.append(packed)
            shards = "1 shard" if packed.num_shards == 1 else f"{packed.num_shards} shards"
            say(f"{packed.name}: {f'left out: {packed.problem}' if packed.problem else shards}")
    whole = sum(packed.problem is None for packed in ended)
    say(f"{whole} of {len(ended)} datasets are packed in {out}")
    return len(ended), whole


def _table(whole: Sequence[Checked]) -> Table:
    """The numbers of the datasets that are whole."""
    table = Table("dataset")
    for column in ("pictures", "published", "expressions"):
        table.add_column(column, justify="right")
    for checked in whole:
        numbers = (checked.pictures, PUBLISHED_PICTURES.get(checked.name), checked.expressions)
        table.add_row(checked.name, *("" if number is None else f"{number:,}" for number in numbers))
    return table


def _problems(broken: Sequence[Checked]) -> list[str]:
    """A line for each dataset and problem; the splits of a dataset mostly have the same one."""

    def problem(checked: Checked) -> tuple[str, str]:
        dataset, _, split = checked.name.rpartition("|")
        return dataset or split, " ".join(checked.problem.replace(f"'{checked.name}'", f"'{dataset or split}'").split())

    lines = []
    for (dataset, reason), group in itertools.groupby(broken, problem):
        splits = ", ".join(checked.name.rpartition("|")[2] for checked in group)
        lines.append(f"{dataset}{'' if splits == dataset else f' {splits}'}: {reason}")
    return lines
