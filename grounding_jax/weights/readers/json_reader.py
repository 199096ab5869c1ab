"""JSON beside and inside of weights, into what it is declared to be; errors are those of checkpoints."""

from __future__ import annotations

from typing import Any

from etils import epath

from grounding_jax.files import records
from grounding_jax.weights.tensors import CheckpointError

_LARGEST_JSON = 2**27  # bytes; the largest public index has 2**24


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """A JSON object; FileNotFoundError or CheckpointError in one line."""
    try:
        return records.read(path, dict[str, Any], max_bytes=_LARGEST_JSON)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def parse_json(data: bytes, kind: Any, name: str) -> Any:
    """JSON of a kind; CheckpointError that begins with the name of the place that it is from."""
    try:
        return records.decode(data, kind, name)
    except ValueError as error:
        raise CheckpointError(str(error)) from error
