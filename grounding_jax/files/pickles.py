"""Pickles: of plain data, as REFER publishes its references; nothing in them is executed."""

import io
import pickle
import pickletools
from typing import Any, BinaryIO

from etils import epath

from grounding_jax.files.regular import LARGEST, read_bytes

# What reading damaged pickles raises: the format is interpreted as it comes.
DAMAGE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)
_MEMO_OPCODES = ("PUT", "BINPUT", "LONG_BINPUT")


def read_plain_pickle(file: epath.PathLike, max_bytes: int = LARGEST) -> Any:
    """Reads a pickle of numbers, texts, lists and dicts; byte strings of Python 2 are taken as UTF-8.

    Raises FileNotFoundError if it is not there, ValueError if it is damaged or would run code, none of which
    has run then.
    """
    data = io.BytesIO(read_bytes(file, max_bytes))
    try:
        check_memo(data)
        return _PlainUnpickler(data, encoding="utf-8").load()
    except DAMAGE as error:
        raise ValueError(f"cannot read the pickle {file}: {' '.join(str(error).split())[:200]}") from error


def check_memo(file: BinaryIO) -> None:
    """Reads the pickle at the position of a file without making anything of it, and goes back.

    The interpreter in C reserves whatever place and length it is told. Raises one of `DAMAGE` if it would be told more
    than the file can have.
    """
    start, opcode = file.tell(), None
    while opcode is None or opcode.name != "STOP":
        code = file.read(1)
        opcode = pickletools.code2op.get(code.decode("latin-1"))
        if opcode is None:
            raise ValueError(f"it has the opcode {code!r}" if code else "it has no end")
        if opcode.arg is None:
            continue
        # As `pickletools.genops` does, which takes no text of Python 2 that is not ASCII.
        argument = file.readline() if opcode.arg is pickletools.stringnl else opcode.arg.reader(file)
        if opcode.name in _MEMO_OPCODES and argument > file.tell() - start:
            raise ValueError(f"it counts {argument:,} objects in {file.tell() - start:,} bytes")
    file.seek(start)


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler without access to any class or function, or to anything outside of the file."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, but only plain data is read")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it asks for an object outside of the file")
