"""JSON into declared types: a value that is missing or of another type is named by its place in the file."""

import functools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

import msgspec
from etils import epath

from grounding_jax.files import text
from grounding_jax.files.regular import LARGEST, PackedFile, read_bytes

T = TypeVar("T")


class Numbered(Protocol):
    """What a file counts by numbers that must differ."""

    @property
    def id(self) -> int:
        """Its number."""


N = TypeVar("N", bound=Numbered)


def read(
    file: epath.PathLike | PackedFile,
    kind: type[T],
    fallback_encoding: str | None = None,
    max_bytes: int = LARGEST,
) -> T:
    """Reads a JSON file.

    Args:
        file: the file.
        kind: type of its content, such as ``list[Annotation]`` with a ``msgspec.Struct`` of that name. Keys that are
            not declared are skipped.
        fallback_encoding: encoding of a text that is not UTF-8.
        max_bytes: the most bytes it may have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not JSON, has more bytes or is nested too deep, or holds something else; says where.
    """
    data = read_bytes(file, max_bytes)
    if fallback_encoding is not None:
        try:
            data.decode()
        except UnicodeDecodeError:
            data = data.decode(fallback_encoding).encode()
    return decode(data, kind, str(file))


def decode(data: bytes | str | msgspec.Raw, kind: type[T], name: str) -> T:
    """`read` of what was read already, from the file of that name."""
    if isinstance(data, bytes) and data.startswith(text.BOM):
        data = data[len(text.BOM) :]
    try:
        return _decoder(kind).decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _explained(error, data, name) from error


def convert(value: Any, kind: type[T], name: str) -> T:
    """`decode` of values in memory, such as those of a pickle."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise _explained(error, b"", name) from error


def read_lines(file: epath.PathLike | PackedFile, kind: type[T], example: str) -> list[tuple[int, T]]:
    """Reads a file with JSON in every line: the values with the numbers of their lines, from 1.

    Args:
        file: the file.
        kind: type of the content of a line.
        example: example of a line, for errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has no lines, or one is not of this kind; says which.
    """
    lines = text.read_lines(file)
    if not lines:
        raise ValueError(f"{file} is empty: it needs lines like {example}")
    return list(_decoded(file, lines, kind, example))


def _decoded(
    file: epath.PathLike | PackedFile, lines: Iterable[tuple[int, str]], kind: type[T], example: str
) -> Iterator[tuple[int, T]]:
    for number, line in lines:
        try:
            yield number, decode(line, kind, f"{file}, line {number}")
        except ValueError as error:
            raise ValueError(f"{error}; a line should be like {example}") from error


def unique(entries: Iterable[N], what: str, file: object) -> dict[int, N]:
    """Entries by their ids.

    Args:
        entries: each with an ``id``.
        what: they are, for the error.
        file: file that they are from, for the error.

    Raises ValueError if two have the same id: which one is meant can't be told.
    """
    found: dict[int, N] = {}
    for entry in entries:
        if entry.id in found:
            raise ValueError(f"{file} has {what} {entry.id} twice")
        found[entry.id] = entry
    return found


def to_json(value: Any, indent: int | None = None) -> str:
    """A value as JSON, in a single line without `indent`; raises ValueError if it has a number that is not finite.

    It may have entries of files as they were read, even those that are not decoded yet.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_plain)
    except ValueError as error:
        raise ValueError(f"JSON has no numbers that are not finite: {error}") from error


def _plain(value: Any) -> Any:
    """An entry of a file in terms of what JSON knows."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    raise TypeError(f"{type(value).__name__} can't be written as JSON")


@functools.cache
def _decoder(kind: Any) -> msgspec.json.Decoder:
    return msgspec.json.Decoder(kind)


def _explained(error: Exception, data: bytes | str | msgspec.Raw, name: str) -> ValueError:
    """The error of msgspec as a line that begins with the file and the place in it."""
    if isinstance(error, RecursionError):
        return ValueError(f"{name} is not valid JSON: it is nested too deep")
    reason, _, place = str(error).partition(" - at ")
    if isinstance(error, msgspec.ValidationError):
        return ValueError(f"{name} at {place.replace('`', '') or '$'}: {reason[0].lower()}{reason[1:]}")
    raw = data.encode("utf-8", "replace") if isinstance(data, str) else bytes(data)
    byte = re.search(r" \(byte (\d+)\)", reason)
    if byte is None:  # a text that is not UTF-8, or the end of the file where none should be
        text.decode(raw, name)
        return ValueError(f"{name} is not valid JSON: {reason}")
    start = int(byte[1])
    number = raw.count(b"\n", 0, start) + 1
    line = "" if isinstance(data, str) else f", line {number}"
    if re.match(rb"-?(NaN|Infinity)", raw[max(0, start - 1) : start + 9].lstrip(b" :,[")):
        return ValueError(f"{name} is not valid JSON{line}: every number must be finite, not NaN or Infinity")
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text.decode(raw, name)
    return ValueError(f"{name} is not valid JSON{line}: {reason.removeprefix('JSON is malformed: ')}")
