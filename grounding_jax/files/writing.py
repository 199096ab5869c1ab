"""Files of ours: written at once, so that a reader finds the old one or the new one, and never with NaN in JSON."""

import contextlib
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from grounding_jax.files.records import to_json
from grounding_jax.files.regular import check_regular


def check_replaceable(file: epath.PathLike) -> epath.Path:
    """The path of a file that may be written; raises ValueError if something else is there, which would be lost."""
    path = epath.Path(file)
    return check_regular(path) if path.exists() else path


def write_bytes(file: epath.PathLike, data: bytes) -> None:
    """Writes a file, or replaces it."""
    with replaced(file) as scratch:
        scratch.write_bytes(data)


def write_text(file: epath.PathLike, text: str) -> None:
    """Writes a file, or replaces it, in UTF-8 and with its line feeds as they are."""
    write_bytes(file, text.encode())


def write_json(file: epath.PathLike, value: Any, indent: int | None = None) -> None:
    """Writes a value as JSON; raises ValueError, with no file written, if it has a number that is not finite."""
    try:
        text = to_json(value, indent)
    except ValueError as error:
        raise ValueError(f"{file} is not written: {error}") from error
    write_text(file, text + "\n")


def write_json_lines(file: epath.PathLike, values: list[Any]) -> None:
    """`write_json` of a list, with each of its values in a line of its own."""
    try:
        lines = [to_json(value) for value in values]
    except ValueError as error:
        raise ValueError(f"{file} is not written: {error}") from error
    write_text(file, "[\n" + ",\n".join(lines) + "\n]\n")


@contextlib.contextmanager
def replaced(file: epath.PathLike) -> Iterator[epath.Path]:
    """A path beside a file, which takes its place in the end; after an error the file is as it was.

    Raises ValueError if something else than a file is there, such as a folder, a pipe or a device.
    """
    path = check_replaceable(file)
    # Containers that share a folder share numbers of processes as well; a name may be as long as names can be.
    scratch = path.parent / f".{uuid.uuid4().hex}.part"
    try:
        yield scratch
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
