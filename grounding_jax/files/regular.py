"""The bytes of files: of regular ones only, and of no more than a limit."""

import dataclasses
import os
from typing import BinaryIO

from etils import epath

LARGEST = 4 << 30  # bytes of a file that is read whole; the largest of the public annotations have one gigabyte


@dataclasses.dataclass(frozen=True)
class PackedFile:
    """A file out of a shard: its bytes, and what else records and errors want to know of a file.

    Attributes:
        path: its path from the root of the datasets.
        data: its bytes.
    """

    path: epath.Path
    data: bytes

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return self.path.stem

    def with_suffix(self, suffix: str) -> epath.Path:
        """The path with another ending."""
        return self.path.with_suffix(suffix)


# A picture or label map of a record: in a folder, or packed.
File = epath.Path | PackedFile


def check_regular(file: epath.PathLike) -> epath.Path:
    """The path, once it is certain that opening it neither waits nor never ends, as of a pipe or a device.

    Raises FileNotFoundError if there is nothing, ValueError if it is a folder or anything else but a file.
    """
    path = epath.Path(file)
    if path.is_file() if str(path).startswith("gs://") else os.path.isfile(path):  # epath's takes pipes for files
        return path
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file")
    if os.path.exists(path):
        raise ValueError(f"{path} is not a regular file")
    raise FileNotFoundError(f"a file is missing: {path}")


def open_regular(file: epath.PathLike) -> BinaryIO:
    """Opens a file to read its bytes; errors as of `check_regular`."""
    return check_regular(file).open("rb")


def read_bytes(file: epath.PathLike | PackedFile, max_bytes: int = LARGEST) -> bytes:
    """The bytes of a file.

    Raises FileNotFoundError if there is no such file, ValueError if it is no regular one or has more than `max_bytes`.
    """
    if isinstance(file, PackedFile):
        return file.data
    path = check_regular(file)
    length = path.stat().length
    if length > max_bytes:
        raise ValueError(f"{path} has {length:,} bytes; no more than {max_bytes:,} are read")
    return path.read_bytes()
