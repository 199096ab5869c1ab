"""What a small model knows, as data in its folder: one of a few megabytes can't tell anything else."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from etils import epath

from grounding_jax.files import records

FILE = "known_names.json"  # {"what": "drawn things", "names": {"bus": "buses", ...}}, each with its plural

_SOME = 6  # names in the line: from all over the list, for what is alike stands together


class _Known(msgspec.Struct):
    """What is in the file."""

    what: str
    names: dict[str, str]


def unknown_line(folder: epath.PathLike, model: str, texts: Iterable[str]) -> str | None:
    """A line about the texts that name nothing which a model knows.

    Args:
        folder: folder of the model.
        model: name of the model in the line.
        texts: expressions or questions.

    Returns:
        The line; None where each text has a name that is known, or the folder does not say what is.
    """
    path = epath.Path(folder) / FILE
    if not path.exists():
        return None
    known = records.read(path, _Known)
    names = {*known.names, *known.names.values()}
    unknown = [text for text in dict.fromkeys(texts) if not any(_has(text, name) for name in names)]
    if not unknown:
        return None
    listed = ", ".join(f"'{text}'" for text in unknown)
    some = ", ".join(list(known.names)[:: max(1, len(known.names) // _SOME)][:_SOME])
    return f"{model} knows {len(known.names)} {known.what}, such as {some} (all: {path}); it only guesses at {listed}"


def _has(text: str, name: str) -> bool:
    return re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) is not None
