"""Texts: UTF-8, with or without a byte order mark; a line ends at a line feed and nowhere else."""

from etils import epath

from grounding_jax.files.regular import LARGEST, PackedFile, read_bytes

BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def read_text(file: epath.PathLike | PackedFile, max_bytes: int = LARGEST) -> str:
    """A file as text; errors as of `read_bytes`, and ValueError with the number of the line that is not UTF-8."""
    return decode(read_bytes(file, max_bytes), str(file))


def read_lines(file: epath.PathLike | PackedFile, max_bytes: int = LARGEST) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, with their numbers from 1 and without their ends.

    Errors are those of `read_text`. U+2028 and others that end a line for some programs are characters of the line.
    """
    lines = enumerate(read_text(file, max_bytes).split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def decode(data: bytes, name: str) -> str:
    """Bytes of the file of that name as text; raises ValueError with the number of the line that is not UTF-8."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        kind = "UTF-16" if data.startswith(_UTF_16) else "another encoding"
        raise ValueError(f"{name}, line {line}: this is not UTF-8 but {kind}; save the file as UTF-8") from error
