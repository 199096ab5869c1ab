"""What `gsva segment` is asked to do: one picture, a folder of pictures, or the lines of a jsonl file."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import msgspec
from etils import epath

from grounding_jax.files import paths, pictures, records


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    image: Annotated[str, msgspec.Meta(min_length=1)]
    expressions: Annotated[list[str], msgspec.Meta(min_length=1)]


_EXAMPLE = '{"image": "cat.jpg", "expressions": ["the cat", "a dog"]}'


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
    found, others = pictures.list_pictures(source)
    if not found:
        raise ValueError(f"there is no picture in the folder {source}, that is, no {' '.join(pictures.SUFFIXES)}")
    return _with_folders([(picture, expressions) for picture in found], out), others


def jsonl_requests(source: epath.Path, out: epath.Path) -> list[Request]:
    """Every line's picture and expressions; pictures' paths are relative to the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not as it should be; says which, and how it should be.
    """
    lines = records.read_lines(source, _Line, _EXAMPLE)
    return _with_folders([(source.parent / line.image, line.expressions) for _, line in lines], out)


def _with_folders(pairs: Sequence[tuple[epath.Path, Sequence[str]]], out: epath.Path) -> list[Request]:
    """Gives every picture a folder of its own in `out`."""
    names = paths.result_names(picture for picture, _ in pairs)
    return [Request(picture, tuple(texts), out / name) for (picture, texts), name in zip(pairs, names, strict=True)]
