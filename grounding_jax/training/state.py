"""What a run carries from step to step, and how the trained part of a parameter tree is told from the frozen one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util


class State(NamedTuple):
    """Training state. The position in the data is ``step``.

    Attributes:
        step: updates made or skipped.
        params: trained parameters, float32.
        opt_state: the optimizer's.
        skipped: updates skipped because the loss or the gradient was not finite.
        bad_in_a_row: length of the run of such updates up to now.
    """

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    skipped: jax.Array
    bad_in_a_row: jax.Array


def init_state(optimizer: optax.GradientTransformation, params: dict) -> State:
    """The state before the first update; meant for jit with the shardings of `state_shardings`."""
    return State(_zero(), params, optimizer.init(params), _zero(), _zero())


def _zero() -> jax.Array:
    return jnp.zeros((), jnp.int32)


def state_shardings(optimizer: optax.GradientTransformation, shapes: dict, shardings: dict, whole) -> State:
    """Shardings of a state: moments lie like their parameters, the rest is whole on every device.

    Left to itself, jit would keep the moments of a sharded parameter whole.
    """
    opt_state = jax.eval_shape(optimizer.init, shapes)
    placed = optax.tree.map_params(
        optimizer, lambda _, sharding: sharding, opt_state, shardings, transform_non_params=lambda _: whole
    )
    return State(whole, shardings, placed, whole, whole)


def path_matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A predicate on "/"-joined parameter paths: true where one of the regular expressions matches from the start.

    Raises:
        ValueError: one is no regular expression.
    """
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise ValueError(f"{pattern!r} is no regular expression on parameter paths: {error}") from error
    return lambda path: any(pattern.match(path) for pattern in compiled)


def partition(tree: dict, chosen: Callable[[str], bool], prefix: str = "") -> tuple[dict, dict]:
    """Splits nested dicts into two trees with holes: the leaves whose path ``chosen`` accepts, and the others."""
    inside, outside = {}, {}
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, dict):
            parts = partition(value, chosen, path + "/")
            for side, part in zip((inside, outside), parts, strict=True):
                if part:
                    side[name] = part
        else:
            (inside if chosen(path) else outside)[name] = value
    return inside, outside


def check_fits(shapes: dict, values: dict, where: str) -> None:
    """Holds the leaves of ``values`` against a tree of shapes.

    Raises:
        ValueError: lists the paths that ``shapes`` does not have, and those with another shape there.
    """
    expected, given = (traverse_util.flatten_dict(tree, sep="/") for tree in (shapes, values))
    wrong = [path for path in given if path not in expected]
    wrong += [
        f"{path} {given[path].shape} instead of {expected[path].shape}"
        for path in given
        if path in expected and given[path].shape != expected[path].shape
    ]
    if wrong:
        listed = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(f"{where} does not fit this config: {listed}")


def combine(first: dict, second: dict) -> dict:
    """Lays two nested dicts over each other; where both have a leaf the second's is taken. Inverse of `partition`."""
    result = dict(first)
    for name, value in second.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = combine(result[name], value) if both else value
    return result
