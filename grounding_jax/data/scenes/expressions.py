"""What is said about a scene: expressions of present and absent targets, told apart by the picture alone."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from grounding_jax.data.scenes.cutouts import KINDS

PLACE_GAP = 0.08  # of the picture's side, between the centres of the extreme object and the next of its kind
SIZE_RATIO = 1.6  # of the visible areas of the extreme object and the next of its kind
ABSENT_SHARE = 0.3
MIN_EXPRESSIONS, MAX_EXPRESSIONS = 4, 6  # about a scene
MAX_PER_NOUN = 3

TEMPLATES = {
    "name": ("the {noun}",),
    "all": ("all {plural}",),
    "place": ("the left {noun}", "the right {noun}", "the top {noun}", "the bottom {noun}"),
    "size": ("the largest {noun}", "the smallest {noun}"),
}
# How much each family is preferred when a scene offers more than is asked for. Only kinds that are there
# several times offer place and size, and few of those pass the rule for size.
_WEIGHTS = {"name": 0.8, "all": 0.45, "place": 1.0, "size": 3.0}


@dataclasses.dataclass(frozen=True)
class Expression:
    """One referring expression.

    Attributes:
      text: the words.
      family: "name", "all", "place", "size" or "absent".
      absent_family: for "absent", the family of its template; None otherwise.
      objects: indices of the scene's objects that are meant; empty: the expression is to be rejected.
    """

    text: str
    family: str
    absent_family: str | None
    objects: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Something that may be said: its family, template, kind (index into `KINDS`) and the objects that it means."""

    family: str
    template: str
    kind: int
    objects: tuple[int, ...]


def vocabulary_texts() -> list[str]:
    """Every word that expressions are made of, once each: words of the templates, nouns and plurals."""
    words = [word for texts in TEMPLATES.values() for text in texts for word in text.split() if "{" not in word]
    words += [noun for kind in KINDS for noun in (kind.noun, kind.plural)]
    return list(dict.fromkeys(words))


def choose_expressions(
    rng: np.random.Generator,
    kinds: Sequence[int],
    boxes: np.ndarray,
    areas: np.ndarray,
    size: tuple[int, int],
) -> tuple[Expression, ...]:
    """Chooses 4 to 6 expressions about a scene, in random order.

    About `ABSENT_SHARE` of the nouns are then swapped for kinds that are not there, in all expressions with
    that noun at once and never all of them. So neither a template, nor a noun, nor how often a noun is used
    tells what is absent.

    Args:
      kinds: index into `KINDS` of every object; at least two different ones.
      boxes: [M, 4] visible left, top, right, bottom.
      areas: [M] visible pixels.
      size: width and height of the picture in pixels.
    """
    num = int(rng.integers(MIN_EXPRESSIONS, MAX_EXPRESSIONS + 1))
    chosen = choose_candidates(rng, find_candidates(kinds, boxes, areas, size), num)
    nouns = list(dict.fromkeys(candidate.kind for candidate in chosen))
    missing = rng.permutation([kind for kind in range(len(KINDS)) if kind not in kinds])
    absent = np.ones(len(nouns), bool)
    while absent.all():
        absent = rng.random(len(nouns)) < _absent_probability(len(nouns))
    swapped = {kind: int(missing[k]) for k, kind in enumerate(nouns) if absent[k]}
    expressions = [_expression(candidate, swapped.get(candidate.kind)) for candidate in chosen]
    return tuple(expressions[k] for k in rng.permutation(len(expressions)))


def _expression(candidate: Candidate, swapped: int | None) -> Expression:
    kind = KINDS[candidate.kind if swapped is None else swapped]
    text = candidate.template.format(noun=kind.noun, plural=kind.plural)
    if swapped is None:
        return Expression(text, candidate.family, None, candidate.objects)
    return Expression(text, "absent", candidate.family, ())


@functools.cache
def _absent_probability(num_nouns: int) -> float:
    """p such that flags drawn with p, redrawn while all are set, are set in `ABSENT_SHARE` of the cases."""
    probability = ABSENT_SHARE
    for _ in range(100):
        probability = ABSENT_SHARE + (1 - ABSENT_SHARE) * probability**num_nouns
    return probability


def find_candidates(
    kinds: Sequence[int], boxes: np.ndarray, areas: np.ndarray, size: tuple[int, int]
) -> list[Candidate]:
    """Everything that may be said about the objects without ambiguity."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    candidates = []
    for kind in dict.fromkeys(kinds):
        members = [k for k, other in enumerate(kinds) if other == kind]
        candidates.append(Candidate("all", TEMPLATES["all"][0], kind, tuple(members)))
        if len(members) == 1:
            candidates.append(Candidate("name", TEMPLATES["name"][0], kind, tuple(members)))
            continue
        for axis in (0, 1):
            first, last = TEMPLATES["place"][2 * axis : 2 * axis + 2]
            order = sorted(members, key=lambda k: centres[k, axis])  # noqa: B023 - used at once
            along = centres[order, axis]
            if along[1] - along[0] >= PLACE_GAP * size[axis]:
                candidates.append(Candidate("place", first, kind, (order[0],)))
            if along[-1] - along[-2] >= PLACE_GAP * size[axis]:
                candidates.append(Candidate("place", last, kind, (order[-1],)))
        order = sorted(members, key=lambda k: areas[k])
        if areas[order[-1]] >= SIZE_RATIO * areas[order[-2]]:
            candidates.append(Candidate("size", TEMPLATES["size"][0], kind, (order[-1],)))
        if areas[order[1]] >= SIZE_RATIO * areas[order[0]]:
            candidates.append(Candidate("size", TEMPLATES["size"][1], kind, (order[0],)))
    return candidates


def choose_candidates(rng: np.random.Generator, candidates: Sequence[Candidate], num: int) -> list[Candidate]:
    """Draws up to `num` candidates by weight, each once, at most `MAX_PER_NOUN` with the same noun."""
    # The smallest exponential waiting times are a weighted draw without replacement.
    waits = rng.exponential(size=len(candidates)) / [_WEIGHTS[candidate.family] for candidate in candidates]
    chosen: list[Candidate] = []
    for k in np.argsort(waits):
        same_noun = sum(candidate.kind == candidates[k].kind for candidate in chosen)
        if same_noun < MAX_PER_NOUN and len(chosen) < num:
            chosen.append(candidates[k])
    return chosen
