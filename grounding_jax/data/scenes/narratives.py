"""Narrated captions of scenes: what their phrases mean can be told by the picture alone."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from grounding_jax.data.scenes.backgrounds import BACKDROPS, BACKGROUND, WALL
from grounding_jax.data.scenes.compose import SceneObject, measure
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import TEMPLATES, Candidate, choose_candidates, find_candidates

MIN_PHRASES, MAX_PHRASES = 2, 8
# The share of the captions that have something which the picture lacks: half of them a kind, half something abstract.
UNGROUNDED_SHARE = 0.25
PLURAL_SHARE = 0.7  # of the kinds that are there several times are spoken of together, the others one by one
STUFF_SHARE = 0.5  # of the stuff is spoken of

ABSTRACT = ("weather", "mood", "afternoon", "silence", "morning", "music", "evening", "summer")
_NUMBERS = {2: "two", 3: "three"}
_PLURAL_VERBS = {"is": "are", "stands": "stand", "rests": "rest", "waits": "wait", "appears": "appear"}
_PLURAL_VERBS |= {"enjoys": "enjoy"}

# {0}, {1}, {2}: things, as in "the dog" or "a dog"; {a 0}: only as in "a dog"; {is 0}: a verb that agrees with thing 0.
# {wall}, {floor}: that stuff; {back}: wall or background; {stuff}: any; {abstract}: what has no place in a picture.
# Words of place are true of all scenes, as things are in front of all stuff, or of those in brackets (`_RELATIONS`).
_TEMPLATES = """
    There {is 0} {a 0}.
    There {is 0} {a 0} next to {1}.
    There {is 0} {a 0} with {1} and {2}.
    Here {is 0} {a 0}, and {1} {appears 1} as well.
    We can see {0} and {1}.
    We can see {0}, {1} and {2}.
    We also see {0}.
    We can see {stuff}.
    We can see {0} and {stuff}.
    We can see {0}, {1} and {stuff}.
    We also see {stuff}.
    {stuff} is easy to see.
    {0} {stands 0} next to {1}.
    {0} {waits 0} with {1}.
    {0} and {1} stand together.
    {0} and {1} rest near {2}.
    {0} {appears 0}, too.
    {0} {waits 0} here.
    {0} {stands 0} next to {1}, and {2} {waits 2} here.
    {0} {is 0} here, and so {is 1} {1}.
    Next to {0}, {1} {rests 1}.
    Next to {0}, there {is 1} {a 1}.
    Near {0}, {1} {waits 1} with {2}.
    {0} {is 0} above {1}. [0 above 1]
    {1} {is 1} below {0}. [0 above 1]
    Above {1}, there {is 0} {a 0}. [0 above 1]
    {0} {is 0} to the left of {1}. [0 left 1]
    To the right of {0}, there {is 1} {a 1}. [0 left 1]
    In front of {back}, {0} {stands 0} next to {1}.
    In front of {back}, there {is 0} {a 0}.
    {0} {rests 0} in front of {back}.
    {0} and {1} stand in front of {back}, and {2} {waits 2} here.
    {0} {stands 0} beside {1}, and {2} {rests 2} in front of {back}.
    {0} {waits 0} beside {1}, and behind {2} we can see {back}.
    Behind {0}, we can see {back}.
    {0} {rests 0} on {floor}. [0 under wall]
    On {floor}, {0} {waits 0} near {1}. [0 under wall, 1 under wall]
    {0} {stands 0} next to {1}, and {2} {rests 2} on {floor}. [2 under wall]
    {0} {is 0} above {floor}. [0 above floor]
    {wall} meets {floor} behind {0} and {1}.
    {wall} meets {floor}.
    {abstract} is pleasant.
    {abstract} is perfect for {0}.
    {0} {enjoys 0} {abstract}.
    {0} {enjoys 0} {abstract} with {1}.
"""


@dataclasses.dataclass(frozen=True)
class Phrase:
    """A noun phrase of a caption.

    Attributes:
      text: as the caption has it, "Two dogs" at the beginning of a sentence.
      span: its first character in the caption and the one after its last.
      entities: indices of the scene's entities that are meant; none for what the picture lacks.
      kind: the noun, in the singular.
      family: "name" (the only one of its kind), "all" (of a kind that is there several times), "place" or "size" (one
        of several), "stuff", "absent" (a kind that is not there) or "abstract".
    """

    text: str
    span: tuple[int, int]
    entities: tuple[int, ...]
    kind: str
    family: str


@dataclasses.dataclass(frozen=True)
class Narrative:
    """A caption and its phrases, in its order.

    Attributes:
      caption: one to several sentences.
      phrases: `MIN_PHRASES` to `MAX_PHRASES`, no text twice; at least one means something in the picture.
      parts: pieces that join to the caption, each with whether it is a phrase.
    """

    caption: str
    phrases: tuple[Phrase, ...]
    parts: tuple[tuple[str, bool], ...]


@dataclasses.dataclass(frozen=True)
class _Mention:
    """A phrase before its sentence is known: `indefinite` and `definite` are what it may read as.

    `boxes` [n, 4] are those of the entities that it means, or meant before its noun was swapped.
    """

    indefinite: tuple[str, ...]
    definite: tuple[str, ...]
    plural: bool
    entities: tuple[int, ...]
    kind: str
    family: str
    boxes: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Template:
    """A sentence: texts and slots in turn, what fills the slots, and which of it has to be where."""

    pieces: tuple[str, ...]
    indefinite: frozenset[int]  # of the things
    num_things: int
    others: tuple[str, ...]  # slots of stuff and of the abstract
    conditions: tuple[tuple[str, str, str], ...]
    continues: bool  # what another sentence has begun

    @property
    def num_phrases(self) -> int:
        return self.num_things + len(self.others)


def _parse(line: str) -> _Template:
    text, _, conditions = line.strip().partition(" [")
    pieces = tuple(re.split("[{}]", text))
    slots = [slot for slot in pieces[1::2] if slot.isalpha()]
    indefinite = frozenset(int(slot[2:]) for slot in pieces[1::2] if slot.startswith("a "))
    num_things = len({slot[-1] for slot in pieces[1::2]} & set("012"))
    relations = tuple(tuple(condition.split()) for condition in conditions.rstrip("]").split(",") if condition)
    continues = " also " in text or text.endswith("too.")
    return _Template(pieces, indefinite, num_things, tuple(slots), relations, continues)


SENTENCES = tuple(map(_parse, _TEMPLATES.strip().splitlines()))
_CHOICES = {"back": (WALL, BACKGROUND), "stuff": BACKDROPS}  # slots that have a choice of stuff
# Where two mentions have to be, by their boxes [n, 4].
_RELATIONS: dict[str, Callable[[np.ndarray, np.ndarray], bool]] = {
    "above": lambda one, other: one[:, 3].max() <= other[:, 1].min(),
    "left": lambda one, other: one[:, 2].max() <= other[:, 0].min(),
    "under": lambda one, other: (one[:, 1] + one[:, 3]).min() >= 2 * other[:, 3].max(),  # its middle is
}


def vocabulary_texts() -> list[str]:
    """Every word that captions are made of, once each, as a tokenizer cuts them: words and marks."""
    texts = [piece for template in SENTENCES for piece in template.pieces[::2]]
    texts += ["a an the A An The", *_PLURAL_VERBS, *_PLURAL_VERBS.values(), *ABSTRACT, *BACKDROPS]
    texts += [word for number in _NUMBERS.values() for word in (number, number.capitalize())]
    texts += [text.format(noun="") for family in ("place", "size") for text in TEMPLATES[family]]
    texts += [noun for kind in KINDS for noun in (kind.noun, kind.plural)]
    return list(dict.fromkeys(re.findall("[A-Za-z]+|[.,]", " ".join(texts))))


def narrate(rng: np.random.Generator, entities: Sequence[SceneObject], size: tuple[int, int]) -> Narrative:
    """Draws a caption about a scene, another one at every call.

    About `UNGROUNDED_SHARE` of the captions have something that the picture lacks: an abstract noun, or a noun that
    was swapped for a kind that is not there, in all its phrases, so that no wording tells what is absent.

    Args:
      entities: things, of at least two kinds, then stuff of `BACKDROPS`.
      size: width and height of the picture in pixels.
    """
    boxes = np.array([entity.box for entity in entities], float)
    lines = {entity.kind: boxes[k : k + 1] for k, entity in enumerate(entities) if entity.kind in BACKDROPS}
    others = {
        entity.kind: _Mention((), (f"the {entity.kind}",), False, (k,), entity.kind, "stuff", boxes[k : k + 1])
        for k, entity in enumerate(entities)
        if entity.kind in BACKDROPS and rng.random() < STUFF_SHARE
    }
    lacking, absent = rng.random() < UNGROUNDED_SHARE, rng.random() < 0.5
    num_kinds = 1 if others else 2  # at least, so that there are two phrases, and one is left when one is swapped
    if lacking and not absent:
        noun = ABSTRACT[rng.integers(len(ABSTRACT))]
        others["abstract"] = _Mention((), (f"the {noun}",), False, (), noun, "abstract", boxes[:0])
    num = int(rng.integers(MIN_PHRASES, MAX_PHRASES + 1)) - len(others)
    kinds, thing_boxes, areas = measure(entities[: len(entities) - len(lines)])
    chosen = _choose(rng, find_candidates(kinds, thing_boxes, areas, size), num, num_kinds)
    swapped = {}
    if lacking and absent:
        missing = [kind for kind in range(len(KINDS)) if kind not in kinds]
        told = list(dict.fromkeys(candidate.kind for candidate in chosen))
        swapped[told[rng.integers(len(told))]] = missing[rng.integers(len(missing))]
    mentions = [_mention(candidate, swapped.get(candidate.kind), boxes) for candidate in chosen]
    return _assemble(_tell(rng, mentions, others, lines))


def _choose(rng: np.random.Generator, candidates: Sequence[Candidate], num: int, num_kinds: int) -> list[Candidate]:
    """Draws about `num` things to speak of, in groups of a kind, of at least `num_kinds` kinds."""
    groups: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.kind, []).append(candidate)
    chosen: list[Candidate] = []
    # Kinds that are there several times are spoken of rather than others: they have more to tell, and make plurals.
    waits = rng.random(len(groups)) / [len(own) for own in groups.values()]
    for k, kind in enumerate(list(groups)[i] for i in np.argsort(waits)):
        if k >= num_kinds and len(chosen) >= num:
            break
        chosen += _choose_of_kind(rng, groups[kind])[: max(1, num - len(chosen))]
    return chosen


def _choose_of_kind(rng: np.random.Generator, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The only one of its kind, all of several, or one or two of them."""
    single = [candidate for candidate in candidates if candidate.family != "all"]
    if single and single[0].family == "name":
        return single
    if not single or rng.random() < PLURAL_SHARE:
        return [candidate for candidate in candidates if candidate.family == "all"]
    first, *rest = choose_candidates(rng, single, len(single))
    return [first, *(candidate for candidate in rest if candidate.objects != first.objects)][: rng.integers(1, 3)]


def _mention(candidate: Candidate, swapped: int | None, boxes: np.ndarray) -> _Mention:
    kind = KINDS[candidate.kind if swapped is None else swapped]
    meant, indefinite = list(candidate.objects), ()
    definite = (candidate.template.format(noun=kind.noun),) if candidate.family != "all" else ()
    if candidate.family == "name":
        indefinite = (f"{'an' if kind.noun[0] in 'aeiou' else 'a'} {kind.noun}",)
    elif candidate.family == "all":
        number = _NUMBERS[len(meant)]
        indefinite = (f"{number} {kind.plural}",)
        definite = (f"the {kind.plural}", f"the {number} {kind.plural}")
    entities, family = (candidate.objects, candidate.family) if swapped is None else ((), "absent")
    return _Mention(indefinite, definite, len(meant) > 1, entities, kind.noun, family, boxes[meant])


def _tell(
    rng: np.random.Generator, mentions: list[_Mention], others: dict[str, _Mention], lines: Mapping[str, np.ndarray]
) -> Iterator[tuple[str, _Mention | None]]:
    """The pieces of sentences that have all mentions, each with its mention if it is one; `lines`: boxes of stuff."""
    unused, opening = list(SENTENCES), None
    while mentions or others:
        fitting = [t for t in unused if not (opening is None and t.continues) and _fits(t, mentions, others, lines)]
        fitting = [t for t in fitting if not opening or t.pieces[0] != opening] or fitting
        weights = np.cumsum([template.num_phrases for template in fitting])
        template = fitting[np.searchsorted(weights, rng.random() * weights[-1], side="right")]
        if not template.continues:
            unused.remove(template)
        if opening is not None:
            yield " ", None
        pieces = list(_fill(rng, template, mentions, others))
        start = next(k for k, (text, _) in enumerate(pieces) if text)
        pieces[start] = (pieces[start][0][0].upper() + pieces[start][0][1:], pieces[start][1])
        yield from pieces
        mentions = mentions[template.num_things :]
        for slot in template.others:
            others = {name: other for name, other in others.items() if name != _name(slot, others)}
        opening = template.pieces[0]


def _name(slot: str, others: Mapping[str, _Mention]) -> str | None:
    """What fills a slot of stuff or of the abstract; None if there is nothing that could."""
    return next((name for name in _CHOICES.get(slot, (slot,)) if name in others), None)


def _fits(
    template: _Template,
    mentions: Sequence[_Mention],
    others: Mapping[str, _Mention],
    lines: Mapping[str, np.ndarray],
) -> bool:
    """Whether a sentence can speak of the first of the mentions, and is true of them."""
    if template.num_things > len(mentions) or any(_name(slot, others) is None for slot in template.others):
        return False
    if not all(mentions[k].indefinite for k in template.indefinite):
        return False
    for one, relation, other in template.conditions:
        first, second = (mentions[int(name)].boxes if name.isdigit() else lines.get(name) for name in (one, other))
        if second is None or not _RELATIONS[relation](first, second):
            return False
    return True


def _fill(
    rng: np.random.Generator, template: _Template, mentions: Sequence[_Mention], others: Mapping[str, _Mention]
) -> Iterator[tuple[str, _Mention | None]]:
    """The pieces of a sentence."""
    for k, piece in enumerate(template.pieces):
        if k % 2 == 0:
            yield piece, None
            continue
        word, _, number = piece.rpartition(" ")
        mention = mentions[int(number)] if number.isdigit() else others[_name(number, others)]
        if word in _PLURAL_VERBS:
            yield _PLURAL_VERBS[word] if mention.plural else word, None
        else:
            forms = mention.indefinite if word else mention.indefinite + mention.definite
            yield forms[rng.integers(len(forms))], mention


def _assemble(pieces: Iterator[tuple[str, _Mention | None]]) -> Narrative:
    """Joins the pieces; texts between two phrases become one."""
    caption, parts, phrases = "", [], []
    for text, mention in pieces:
        if mention is not None:
            span = (len(caption), len(caption) + len(text))
            phrases.append(Phrase(text, span, mention.entities, mention.kind, mention.family))
            parts.append((text, True))
        elif parts and not parts[-1][1]:
            parts[-1] = (parts[-1][0] + text, False)
        elif text:
            parts.append((text, False))
        caption += text
    return Narrative(caption, tuple(phrases), tuple(parts))
