"""What `gsva segment` is asked to do: one picture, a folder of pictures, or the lines of a jsonl file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from etils import epath

# What the pictures of a folder are told by.
PICTURE_SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclasses.dataclass(frozen=True)
class Request:
    """One picture, what to look for in it, and the folder for its results."""

    picture: epath.Path
    expressions: tuple[str, ...]
    folder: epath.Path


def is_many(source: epath.Path) -> bool:
    """Whether a source may hold several pictures."""
    return source.is_dir() or source.suffix == ".jsonl"


def folder_requests(source: epath.Path, expressions: Sequence[str], out: epath.Path) -> tuple[list[Request], int]:
    """The same expressions for every picture directly in a folder, by name, and how many files are no pictures.

    Raises:
        ValueError: there is no picture.
    """
    files = sorted(path for path in source.iterdir() if not path.is_dir())
    pictures = [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES]
    if not pictures:
        raise ValueError(f"there is no picture in the folder {source}, that is, no {' '.join(PICTURE_SUFFIXES)}")
    return _with_folders(((picture, expressions) for picture in pictures), out), len(files) - len(pictures)


def jsonl_requests(source: epath.Path, out: epath.Path) -> list[Request]:
    """Every line's picture and expressions; pictures' paths are relative to the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not as it should be; says which, and how it should be.
    """
    if not source.is_file():
        raise FileNotFoundError(f"there is no file {source}")
    lines = [(k, line) for k, line in enumerate(source.read_text().splitlines(), 1) if line.strip()]
    if not lines:
        raise ValueError(f"{source} is empty: it needs lines like {_EXAMPLE}")
    return _with_folders((_read_line(line, f"{source}, line {k}", source.parent) for k, line in lines), out)


_EXAMPLE = '{"image": "cat.jpg", "expressions": ["the cat", "a dog"]}'


def _read_line(line: str, where: str, folder: epath.Path) -> tuple[epath.Path, list[str]]:
    try:
        content = json.loads(line)
        image, expressions = content["image"], content["expressions"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{where}: should be like {_EXAMPLE}") from error
    texts = isinstance(expressions, list) and all(isinstance(text, str) for text in expressions)
    if not isinstance(image, str) or not texts or not expressions:
        raise ValueError(f"{where}: image must be a text and expressions a list of texts, like {_EXAMPLE}")
    return folder / image, expressions


def _with_folders(pairs: Iterable[tuple[epath.Path, Sequence[str]]], out: epath.Path) -> list[Request]:
    """Gives every picture a folder with its name; the second of a name gets "-2"."""
    taken: set[str] = set()  # in lower case, because some file systems don't tell cases apart
    requests = []
    for picture, expressions in pairs:
        name, number = picture.stem, 1
        while name.lower() in taken:
            number += 1
            name = f"{picture.stem}-{number}"
        taken.add(name.lower())
        requests.append(Request(picture, tuple(expressions), out / name))
    return requests
