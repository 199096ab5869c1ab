"""JSON beside and inside of weights, into what it is declared to be."""

from __future__ import annotations

import codecs
from typing import Any

import msgspec
from etils import epath

from grounding_jax.weights.tensors import CheckpointError

_LARGEST_JSON = 2**27  # bytes; the largest public index has 2**24


def read_json(path: epath.PathLike) -> dict:
    """A JSON object; FileNotFoundError or CheckpointError in one line."""
    path = epath.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().length > _LARGEST_JSON:
        raise CheckpointError(f"{path}: is larger than {_LARGEST_JSON:,} bytes, so no config or index")
    content = parse_json(path.read_bytes().removeprefix(codecs.BOM_UTF8), Any, f"{path}: not valid JSON")
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a JSON {type(content).__name__}, expected an object")
    return content


def parse_json(data: bytes, kind: Any, what: str) -> Any:
    """JSON of a kind; CheckpointError that begins with `what`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{what} ({error})") from error
