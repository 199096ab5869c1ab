"""Names from outside that become paths: they stay below their folder, and no two are given the same one."""

import re
import unicodedata
from collections.abc import Iterable

from etils import epath

# What Windows does not take in a name, besides names of devices; the separators are among them everywhere.
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*]')
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
_MOST_BYTES = 200  # of a name: file systems take 255, and endings are added


def below(folder: epath.PathLike, name: str, where: object) -> epath.Path:
    """The path of a name that a file has for something in a folder.

    Args:
        folder: the folder.
        name: from `folder`, parts separated by "/".
        where: the file that has the name, for the error.

    Raises ValueError if the name is empty, absolute, or leads out of the folder.
    """
    parts = name.replace("\\", "/").split("/")
    if not name.strip("/. ") or parts[0] == "" or ".." in parts or ":" in parts[0] or "\0" in name:
        raise ValueError(f"{where} names the file {name!r}, which is not below {folder}")
    return epath.Path(folder) / name


def result_names(pictures: Iterable[epath.PathLike]) -> list[str]:
    """For each picture, the name of the file or folder of its results: its own without the ending, where that can be.

    Names differ whatever the file system takes for the same (upper and lower case, forms of Unicode): the second of a
    name gets "-2". None of them leads out of a folder, and every system takes them.
    """
    taken: set[str] = set()
    names = []
    for picture in pictures:
        stem = _as_name(epath.Path(picture).stem)
        name, number = stem, 1
        while _folded(name) in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(_folded(name))
        names.append(name)
    return names


def _as_name(stem: str) -> str:
    """A name that every file system takes."""
    name = _FORBIDDEN.sub("_", stem.encode("utf-8", "replace").decode())
    name = name.encode()[:_MOST_BYTES].decode("utf-8", "ignore").strip(" ").rstrip(". ")
    if not name or _DEVICES.match(name):
        return f"picture-{name}".rstrip("-")
    return name


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold()
