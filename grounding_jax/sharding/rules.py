"""How parameters lie on a mesh: one table a model, strict both ways.

A rule is a pair (regular expression on the whole "/"-joined path, `PartitionSpec`). Every parameter must match exactly
one rule and every rule must match something, so that a renamed parameter can't silently end up whole on every device.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Rule = tuple[str, PartitionSpec]
REPLICATED = PartitionSpec()


def prefixed(prefix: str, rules: Sequence[Rule]) -> tuple[Rule, ...]:
    """The rules of a part of a model, for paths that begin with a prefix."""
    return tuple((f"{prefix}(?:{pattern})", spec) for pattern, spec in rules)


def shardings(mesh: Mesh, rules: Sequence[Rule], shapes: dict) -> dict:
    """A `NamedSharding` for every leaf of a tree.

    Args:
        mesh: the devices.
        rules: the model's table.
        shapes: nested dicts whose leaves have a shape: the whole model, or every rule could not match.

    Raises:
        ValueError: lists the parameters that match no rule or several, rules that match nothing, and dimensions that
            their axes do not divide.
    """
    compiled = [(re.compile(pattern), spec) for pattern, spec in rules]
    used, wrong, result = set(), [], {}
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        matches = [k for k, (pattern, _) in enumerate(compiled) if pattern.fullmatch(path)]
        used.update(matches)
        if len(matches) != 1:
            patterns = " and ".join(rules[k][0] for k in matches) or "no rule"
            wrong.append(f"{path} matches {patterns}")
            continue
        spec = compiled[matches[0]][1]
        wrong += _misfits(mesh, path, leaf.shape, spec)
        result[path] = NamedSharding(mesh, spec)
    wrong += [f"nothing matches {pattern}" for k, (pattern, _) in enumerate(rules) if k not in used]
    if wrong:
        listed = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise ValueError(f"the sharding table does not fit the model: {listed}")
    return traverse_util.unflatten_dict(result, sep="/")


def _misfits(mesh: Mesh, path: str, shape: Sequence[int], spec: PartitionSpec) -> list[str]:
    """What keeps an array from lying on a mesh as a rule says."""
    if len(spec) > len(shape):
        return [f"{path} has {len(shape)} dimensions, its rule {len(spec)}"]
    misfits = []
    for size, axis in zip(shape, spec, strict=False):
        parts = mesh.shape[axis] if axis else 1
        if size % parts:
            misfits.append(f"{path}: a dimension of {size} does not divide over {axis} = {parts}")
    return misfits
