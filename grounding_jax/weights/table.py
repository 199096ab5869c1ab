"""The engine of the two-way tables: rules that tie the tensors of a torch checkpoint to our parameter paths.

A rule is a pair of patterns. `{i}` (any lower-case word) in both patterns is the same number on both sides; a
placeholder that only the torch name has runs over tensors that are stacked on axis 0 of our leaf:

    Rule("model.layers.{i}.mlp.up_proj.weight", "llama/layers/mlp/up/kernel", LINEAR)    one stacked leaf
    Rule("blocks.{i}.norm1.weight", "sam/image_encoder/blocks_{i}/norm1/scale")          one leaf for each i

A torch tensor that holds several leaves one after the other on axis 0, such as a projection to queries, keys and
values, has a rule for each of them (`packed`).

The same table is used in both directions, nothing is read before it is written, and whatever does not fit
(unknown, missing or doubly matched names, shapes) is one error that lists it all.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from grounding_jax.weights.tensors import FLOATS, CheckpointError, LazyTensor, stack
from grounding_jax.weights.transforms import IDENTITY, Transform

_PLACEHOLDER = re.compile(r"\{([a-z]+)\}")


@dataclasses.dataclass(frozen=True)
class Rule:
    """A group of torch names, our path for it, and the rearrangement; `aliases` are for import only.

    With `part` (k, n) our leaf is the k-th of n equal parts of the torch tensor, cut along axis 0 and then rearranged.
    """

    torch: str
    ours: str
    transform: Transform = IDENTITY
    aliases: tuple[str, ...] = ()
    part: tuple[int, int] = (0, 1)

    @functools.cached_property
    def stacked(self) -> str | None:
        """The placeholder that runs over the stacked axis, or None."""
        extra = [name for name in _PLACEHOLDER.findall(self.torch) if name not in _PLACEHOLDER.findall(self.ours)]
        if len(extra) > 1:
            raise ValueError(f"rule {self.torch}: {extra} would all be stacked, one can be")
        return extra[0] if extra else None

    @functools.cached_property
    def _torch_regexes(self) -> list[re.Pattern]:
        return [_regex(pattern) for pattern in (self.torch, *self.aliases)]

    @functools.cached_property
    def _ours_regex(self) -> re.Pattern:
        return _regex(self.ours)

    def match_torch(self, key: str) -> dict[str, int] | None:
        """The placeholders' numbers when this rule knows `key`."""
        for regex in self._torch_regexes:
            if found := regex.fullmatch(key):
                return {name: int(number) for name, number in found.groupdict().items()}
        return None

    def match_ours(self, path: str) -> dict[str, int] | None:
        """The placeholders' numbers when this rule knows our `path`."""
        found = self._ours_regex.fullmatch(path)
        return {name: int(number) for name, number in found.groupdict().items()} if found else None


def packed(torch: str, ours: Sequence[str], transform: Transform = IDENTITY) -> list[Rule]:
    """The rules of a torch tensor in which all of our leaves lie one after the other."""
    return [Rule(torch, path, transform, part=(k, len(ours))) for k, path in enumerate(ours)]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rules of one architecture, and torch names (`*` matches anything) that are known and left out."""

    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()

    def __add__(self, other: Table) -> Table:
        return Table(self.rules + other.rules, self.ignored + other.ignored)

    def prefixed(self, torch: str, ours: str) -> Table:
        """The same table where all torch names start with `torch` and all our paths with `ours`."""
        rules = tuple(
            dataclasses.replace(
                rule,
                torch=torch + rule.torch,
                ours=ours + rule.ours,
                aliases=tuple(torch + a for a in rule.aliases),
            )
            for rule in self.rules
        )
        return Table(rules, tuple(torch + pattern for pattern in self.ignored))

    def accepting(self, spelling: Callable[[str], str]) -> Table:
        """The same table, where importing also takes every name in another spelling."""
        rules = tuple(
            dataclasses.replace(rule, aliases=(*rule.aliases, *map(spelling, (rule.torch, *rule.aliases))))
            for rule in self.rules
        )
        return Table(rules, (*self.ignored, *map(spelling, self.ignored)))

    def is_ignored(self, key: str) -> bool:
        return any(regex.fullmatch(key) for regex in self._ignored_regexes)

    @functools.cached_property
    def _ignored_regexes(self) -> list[re.Pattern]:
        return [re.compile(re.escape(pattern).replace(r"\*", ".*")) for pattern in self.ignored]

    def to_ours(self, tensors: Mapping[str, LazyTensor], where: str) -> dict[str, LazyTensor]:
        """Our leaves by path, lazily. `where` names the checkpoint in the error. Raises CheckpointError."""
        found: dict[Rule, dict[tuple[int, ...], str]] = {rule: {} for rule in self.rules}
        unknown, doubled = [], []
        for key in tensors:
            if self.is_ignored(key):
                continue
            hits = [(rule, numbers) for rule in self.rules if (numbers := rule.match_torch(key)) is not None]
            if not hits:
                unknown.append(key)
            # One rule for the whole tensor, or one for each of its parts.
            fits = [rule.part for rule, _ in hits] == [(k, len(hits)) for k in range(len(hits))]
            for rule, numbers in hits:
                index = tuple(numbers.values())
                if not fits or index in found[rule]:
                    doubled.append(key)
                found[rule][index] = key
        check_floats({key: tensors[key] for keys in found.values() for key in keys.values()}, where)
        missing = self._missing({rule: set(keys) for rule, keys in found.items()})
        _raise_misfits(where, unknown=unknown, missing=missing, doubled=doubled)
        leaves: dict[str, LazyTensor] = {}
        for rule, keys in found.items():
            leaves |= _our_leaves(rule, {index: (key, tensors[key]) for index, key in keys.items()}, where)
        return leaves

    def to_torch(self, leaves: Mapping[str, LazyTensor], where: str) -> dict[str, LazyTensor]:
        """Tensors by torch name, lazily: the inverse of `to_ours`. Raises CheckpointError."""
        parts: dict[str, dict[int, LazyTensor]] = collections.defaultdict(dict)
        found: dict[Rule, set[tuple[int, ...]]] = {rule: set() for rule in self.rules}
        unknown, doubled = [], []
        for path, leaf in leaves.items():
            hits = [(rule, numbers) for rule in self.rules if (numbers := rule.match_ours(path)) is not None]
            if not hits:
                unknown.append(path)
            if len(hits) > 1:
                doubled.append(path)
            for rule, numbers in hits[:1]:
                for index, key, tensor in _torch_tensors(rule, numbers, path, leaf, where):
                    found[rule].add(index)
                    parts[key][rule.part[0]] = tensor
        _raise_misfits(where, unknown=unknown, missing=self._missing(found), doubled=doubled)
        return {key: _joined([each[k] for k in sorted(each)], key, where) for key, each in parts.items()}

    def check_shapes(self, leaves: Mapping[str, LazyTensor], expected: Mapping[str, Sequence[int]], where: str) -> None:
        """Raises CheckpointError, in torch names, unless `leaves` are floats of the `expected` paths and shapes."""
        nothing = np.zeros((), np.uint8)
        wanted = {
            path: LazyTensor(tuple(shape), nothing.dtype, lambda shape=tuple(shape): np.broadcast_to(nothing, shape))
            for path, shape in expected.items()
        }
        have, want = self.to_torch(leaves, where), self.to_torch(wanted, where)
        check_floats(have, where)
        _raise_misfits(where, unknown=sorted(have.keys() - want.keys()), missing=sorted(want.keys() - have.keys()))
        wrong = [
            f"{key} is {list(have[key].shape)}, should be {list(want[key].shape)}"
            for key in have
            if have[key].shape != want[key].shape
        ]
        if wrong:
            raise CheckpointError(f"{where}: {len(wrong)} tensors of another shape than the config: {listed(wrong)}")

    def _missing(self, found: Mapping[Rule, set[tuple[int, ...]]]) -> list[str]:
        """Names that rules should have found. How many layers there are is what any rule has seen of them."""
        counts: dict[str, int] = collections.defaultdict(int)
        for rule, indices in found.items():
            for index in indices:
                for prefix, number in zip(_prefixes(rule.torch), index, strict=True):
                    counts[prefix] = max(counts[prefix], number + 1)
        missing = []
        for rule, indices in found.items():
            sizes = [counts[prefix] for prefix in _prefixes(rule.torch)]
            if 0 in sizes:
                missing.append(rule.torch)
                continue
            wanted = itertools.product(*map(range, sizes))
            missing += [_fill(rule.torch, index) for index in wanted if index not in indices]
        return list(dict.fromkeys(missing))  # a packed tensor is missed by several rules


def check_floats(tensors: Mapping[str, LazyTensor], where: str) -> None:
    """Raises CheckpointError unless all weights are floats: the integers of a quantised model mean something else."""
    others = {key: str(tensor.dtype) for key, tensor in tensors.items() if tensor.dtype not in FLOATS}
    if others:
        raise CheckpointError(
            f"{where}: {listed(others)} of {', '.join(sorted(set(others.values())))}: quantised weights can't be read; "
            f"take the version of this model in {', '.join(str(dtype) for dtype in FLOATS[1:])}"
        )


def _regex(pattern: str) -> re.Pattern:
    """The regular expression of a pattern, placeholders being groups of digits."""
    parts = _PLACEHOLDER.split(pattern)
    parts[0::2] = map(re.escape, parts[0::2])
    parts[1::2] = [f"(?P<{name}>[0-9]+)" for name in parts[1::2]]
    return re.compile("".join(parts))


def _prefixes(pattern: str) -> list[str]:
    """What stands before each placeholder: rules that agree in it run over the same layers."""
    return [pattern[: found.start()] for found in _PLACEHOLDER.finditer(pattern)]


def _fill(pattern: str, numbers: Iterable[int]) -> str:
    remaining = iter(numbers)
    return _PLACEHOLDER.sub(lambda _: str(next(remaining)), pattern)


def _our_leaves(
    rule: Rule, sources: Mapping[tuple[int, ...], tuple[str, LazyTensor]], where: str
) -> dict[str, LazyTensor]:
    """Our leaves of one rule from its torch tensors by placeholder numbers."""
    names = _PLACEHOLDER.findall(rule.torch)
    groups: dict[str, list[tuple[str, LazyTensor]]] = collections.defaultdict(list)
    for index, (key, tensor) in sorted(sources.items()):
        numbers = dict(zip(names, index, strict=True))
        path = _PLACEHOLDER.sub(lambda found, numbers=numbers: str(numbers[found[1]]), rule.ours)
        groups[path].append((key, _rearranged(rule, tensor, key, where)))
    leaves = {}
    for path, parts in groups.items():
        if rule.stacked is None:
            leaves[path] = parts[0][1]
            continue
        try:
            leaves[path] = stack([part for _, part in parts])
        except ValueError as error:
            raise CheckpointError(f"{where}: {listed(key for key, _ in parts)} can't be stacked: {error}") from None
    return leaves


def _rearranged(rule: Rule, tensor: LazyTensor, key: str, where: str) -> LazyTensor:
    """Our leaf, or one layer of it, from the tensor that holds it."""
    transform, (k, n) = rule.transform, rule.part
    try:
        part = tensor if n == 1 else tensor.map(lambda array: np.split(array, n)[k])
        mapped = part.map(transform.to_ours)
        if transform.to_torch(np.broadcast_to(np.zeros((), np.uint8), mapped.shape)).shape == part.shape:
            return mapped
    except (ValueError, IndexError):
        pass  # reported below: numpy's message names neither the tensor nor the layout it should have
    layout = transform.name if n == 1 else f"{n} times {transform.name}"
    raise CheckpointError(f"{where}: {key} is {list(tensor.shape)}, which is no {layout}")


def _joined(parts: Sequence[LazyTensor], key: str, where: str) -> LazyTensor:
    """The torch tensor in which all parts lie one after the other on axis 0."""
    if len(parts) == 1:
        return parts[0]
    try:
        return stack(parts).map(lambda array: array.reshape(-1, *array.shape[2:]))
    except ValueError as error:
        raise CheckpointError(f"{where}: the parts of {key} differ: {error}") from None


def _torch_tensors(
    rule: Rule, numbers: Mapping[str, int], path: str, leaf: LazyTensor, where: str
) -> list[tuple[tuple[int, ...], str, LazyTensor]]:
    """(placeholder numbers, torch name, tensor) for every torch tensor of one of our leaves."""
    names = _PLACEHOLDER.findall(rule.torch)
    parts = [leaf] if rule.stacked is None else leaf.rows()
    out = []
    for position, part in enumerate(parts):
        index = tuple(position if name == rule.stacked else numbers[name] for name in names)
        try:
            out.append((index, _fill(rule.torch, index), part.map(rule.transform.to_torch)))
        except (ValueError, IndexError):
            raise CheckpointError(f"{where}: {path} is {list(leaf.shape)}, which is no {rule.transform.name}") from None
    return out


def _raise_misfits(where: str, **misfits: list[str]) -> None:
    """One error that lists every name of every kind of misfit; nothing when there is none."""
    texts = [f"{len(names)} {kind} ({listed(names)})" for kind, names in misfits.items() if names]
    if texts:
        raise CheckpointError(f"{where}: the names don't fit the layout: {'; '.join(texts)}")


def listed(names: Iterable[str]) -> str:
    """All names in one line; those that differ in one number are written once, as `layers.{0-31}.norm`."""
    groups: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    singles = []
    for name in names:
        if number := re.search(r"(?<=[._])[0-9]+(?=[./])", name):
            groups[name[: number.start()], name[number.end() :]].append(int(number.group()))
        else:
            singles.append(name)
    for (before, after), numbers in groups.items():
        singles.append(f"{before}{_ranges(numbers)}{after}")
    return ", ".join(singles)


def _ranges(numbers: Iterable[int]) -> str:
    """Numbers as text: "3" for one, "{0-4,7}" for several."""
    ordered = sorted(set(numbers))
    runs = []
    for _, run in itertools.groupby(enumerate(ordered), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in run]
        runs.append(str(members[0]) if len(members) == 1 else f"{members[0]}-{members[-1]}")
    return runs[0] if len(ordered) == 1 else "{" + ",".join(runs) + "}"
