"""The files that an evaluation is asked to write."""

from __future__ import annotations

from collections.abc import Mapping

from etils import epath

from grounding_jax.files.writing import check_replaceable
from grounding_jax.terminal import prepare_folder


def prepare_outputs(outputs: Mapping[str, epath.PathLike | None], data: epath.PathLike) -> None:
    """Finds out, before anything is computed, whether the files of an evaluation can be written and hurt nothing.

    Args:
        outputs: files by their options; None for one that is not asked for.
        data: folder of the datasets, whose folders have files that must stay.

    Raises:
        ValueError: two are the same file, one would replace a file of a dataset or is no file, or its folder can't be
            written to.
    """
    places: dict[epath.Path, str] = {}
    for option, file in outputs.items():
        if file is None:
            continue
        place = check_replaceable(file).resolve()
        if place.exists() and epath.Path(data).resolve() in place.parent.parents:
            raise ValueError(f"{option} {file} would replace a file of the data in {data}: choose another place")
        if place in places:
            raise ValueError(f"{option} and {places[place]} are the same file, {file}: give them different names")
        places[place] = option
        prepare_folder(epath.Path(file).parent)
