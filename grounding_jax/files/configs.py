"""Nested frozen dataclasses as the config.json of a model folder, and back."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from grounding_jax.files import records

T = TypeVar("T")
_LARGEST = 2**31 - 1  # of all sizes and counts


def to_json(config: Any) -> str:
    """A dataclass as text."""
    return records.to_json(dataclasses.asdict(config), indent=2) + "\n"


def build(cls: type[T], values: Any, where: str) -> T:
    """A dataclass, with others inside, from parsed JSON, whose lists become tuples; inverse of `to_json`.

    Args:
        cls: the dataclass.
        values: an object of JSON.
        where: the file, for errors.

    Raises:
        ValueError: says which keys are unknown or missing, or which value is of another type or no size.
    """
    if not isinstance(values, dict):
        raise ValueError(
            f"{where}: is a JSON {type(values).__name__}, should be an object with the keys of {cls.__name__}"
        )
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(values.keys() - fields.keys())
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    missing = sorted(required - values.keys())
    if unknown or missing:
        raise ValueError(f"{where}: {cls.__name__} has unknown keys {unknown} and lacks {missing}")
    built = {}
    for name, value in values.items():
        inner = _dataclasses(_hints(cls)[name])
        here = f"{where}, {name}"
        if inner and not (value is None and _may_be_none(_hints(cls)[name])):
            built[name] = build(_fitting(inner, value), value, here)
        else:
            built[name] = convert(cls, name, value, here)
    try:
        return cls(**built)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def convert(cls: type, name: str, value: Any, where: str) -> Any:
    """A value of parsed JSON as that of a field of a dataclass; ValueError unless it is of that type, and a size.

    Numbers are finite, not negative, and not 0 where they stand alone, unless the default of the field is.
    """
    try:
        converted = msgspec.convert(value, _hints(cls)[name])
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error
    (default,) = (field.default for field in dataclasses.fields(cls) if field.name == name)
    alone = not isinstance(converted, tuple)
    for number in (converted,) if alone else converted:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        least = 1 if alone and isinstance(number, int) else 0
        if isinstance(default, int | float) and default < least:
            least = 0 if default == 0 else -_LARGEST
        if not math.isfinite(number) or not least <= number <= _LARGEST:
            raise ValueError(f"{where}: is {number}, should be a number from {least} to {_LARGEST}")
    return converted


_hints = functools.cache(typing.get_type_hints)


def part_of(cls: type, name: str) -> type:
    """The dataclass that a field of a dataclass holds; the latter itself where it has no such field."""
    return _dataclasses(_hints(cls)[name])[0] if name in _hints(cls) else cls


def _dataclasses(declared: Any) -> tuple[type, ...]:
    """The dataclasses that a field may hold."""
    union = isinstance(declared, types.UnionType) or typing.get_origin(declared) is typing.Union
    return tuple(filter(dataclasses.is_dataclass, typing.get_args(declared) if union else (declared,)))


def _may_be_none(declared: Any) -> bool:
    return type(None) in typing.get_args(declared)


def _fitting(choices: tuple[type, ...], values: Any) -> type:
    """The dataclass that has these keys, where there is a choice; otherwise the first."""
    keys = values.keys() if isinstance(values, Mapping) else ()
    fitting = [cls for cls in choices if set(keys) <= {field.name for field in dataclasses.fields(cls)}]
    return fitting[0] if fitting else choices[0]
