"""Nested frozen dataclasses as the config.json of a model folder, and back."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, TypeVar

from grounding_jax.files import records

T = TypeVar("T")


def to_json(config: Any) -> str:
    """A dataclass as text."""
    return records.to_json(dataclasses.asdict(config), indent=2) + "\n"


def from_json(cls: type[T], text: str) -> T:
    """Inverse of `to_json`: lists become tuples.

    Raises:
        ValueError: names the keys that are unknown or missing.
    """
    return _build(cls, records.decode(text, dict[str, Any], "config.json"), "config.json")


def _build(cls: type[T], values: dict, where: str) -> T:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(values.keys() - fields.keys())
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    missing = sorted(required - values.keys())
    if unknown or missing:
        raise ValueError(f"{where}: {cls.__name__} has unknown keys {unknown} and lacks {missing}")
    types = typing.get_type_hints(cls)
    built = {}
    for name, value in values.items():
        if isinstance(value, dict):
            value = _build(_fitting(types[name], value), value, f"{where}, {name}")
        built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)


def _fitting(declared: Any, values: dict) -> type:
    """The dataclass that has these keys, where there is a choice; otherwise the one that is declared."""
    choices = typing.get_args(declared) or (declared,)
    fitting = [cls for cls in choices if values.keys() <= {field.name for field in dataclasses.fields(cls)}]
    return fitting[0] if fitting else choices[0]
