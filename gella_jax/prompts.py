"""What is said to a GELLA and what it answers, in the words of the paper (spec gella A11).

    question = nouns_question("A dog lies on a couch.")
    answer = nouns_answer(["A dog", "a couch"])
    # There are two semantic nouns, including A dog [SEG] and a couch [SEG].
    read_nouns(answer)  # ["A dog", "a couch"], one for each [SEG]
    find_spans(["A dog", "a couch"], "A dog lies on a couch.")  # [(0, 5), (14, 21)]

The functions are pure: a caller that samples draws the index and hands it over. Text that comes from users or
datasets is cleaned here, so that it cannot spell a token with a meaning.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence

from gella_jax.config import ASSETS
from grounding_jax.data.sources.narratives import Span
from grounding_jax.files.text import read_lines
from grounding_jax.language.conversation import PICTURE_LINE, Template, defuse, one_line
from grounding_jax.language.tokenizer import EOS_TEXT, SEG_TEXT

# Unlike GSVA's first template: "user" in the place of "human", and no marks around the picture.
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATES = {
    "vicuna_v1": Template(f"{_VICUNA_SYSTEM} USER: ", "USER: ", " ASSISTANT: ", EOS_TEXT),
    # Ours, for tiny models: a system prompt would be most of what they read.
    "plain": Template("USER: ", "USER: ", " ASSISTANT: ", EOS_TEXT),
}


def _paraphrases(task: str) -> tuple[str, ...]:
    """Our own wordings of a task's question, one a line."""
    return tuple(line for _, line in read_lines(ASSETS / f"{task}.txt"))


# All are for training. The first of each is asked in evaluation, and the paper's come before ours.
DESCRIPTION_QUESTIONS = ("Please help me describe the image.", *_paraphrases("describe"))
NOUN_QUESTIONS = (
    "Please help me extract each semantic noun from the sentence. The sentence is {}.",  # section 4.1
    "Please help me extract each semantic noun of the sentence. The sentence is {}.",  # Table 1
    "Please help me extract semantic nouns of this sentence: {}.",  # section 3.1
    *_paraphrases("nouns"),
)

MAX_NOUNS = 999
_ONES, _TENS = map(
    str.split,
    (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
        "seventeen eighteen nineteen",
        "twenty thirty forty fifty sixty seventy eighty ninety",
    ),
)

# The spelling of the paper; the vocabulary has `SEG_TEXT`.
_PAPER_SEG_TEXT = "<SEG>"
# What an answer says before its first noun, as far as it says it.
_HEAD = re.compile(
    r"\A\s*there (?:is|are)\b(?:.*?(?:\bnouns?\b[\s,]*(?:including\b)?|\bincluding\b))?", re.IGNORECASE | re.DOTALL
)
_SEG = re.compile(r"\[SEG\d*\]")
_LEADING_AND = re.compile(r"\A(?:and[\s.,;:]+)+(?=\S)")


def describe_question(index: int = 0) -> str:
    """Asks for a description of the picture in the words `DESCRIPTION_QUESTIONS[index]`."""
    return PICTURE_LINE + DESCRIPTION_QUESTIONS[index]


def description_answer(description: str) -> str:
    """A dataset's description, paragraphs and all, without tokens of a meaning."""
    return defuse(description).strip()


def nouns_question(sentence: str, index: int = 0) -> str:
    """Asks for the nouns of a sentence in the words `NOUN_QUESTIONS[index]`.

    Args:
        sentence: a caption, the expression of a referring task, or `panoptic_caption`. Whether or not it ends in a dot,
            it has one in the question.
        index: index of the wording.

    Raises:
        ValueError: the sentence is empty.
    """
    cleaned = one_line(sentence)
    if not cleaned:
        raise ValueError(f"the sentence {sentence!r} is empty: say what is in the picture, like 'A dog on a couch.'")
    return PICTURE_LINE + NOUN_QUESTIONS[index].format(cleaned)


def nouns_answer(nouns: Sequence[str]) -> str:
    """Counts the nouns and names each with a "[SEG]", in the order given (spec gella A11).

    One noun and no noun have wordings of our own. `read_nouns` is the inverse, but for what `clean_noun` changes.

    Raises:
        ValueError: a noun has no words, or there are more than `MAX_NOUNS`.
    """
    cleaned = [clean_noun(noun) for noun in nouns]
    if "" in cleaned:
        j = cleaned.index("")
        raise ValueError(f"noun {j + 1} of {len(nouns)} is {nouns[j]!r}: it needs a word, like 'dog'")
    if not cleaned:
        return "There are no semantic nouns."
    *others, last = (f"{noun} {SEG_TEXT}" for noun in cleaned)
    if not others:
        return f"There is one semantic noun: {last}."
    return f"There are {in_words(len(nouns))} semantic nouns, including {', '.join(others)} and {last}."


def in_words(number: int) -> str:
    """A number as answers spell it: "twenty one", "one hundred thirty three".

    Raises:
        ValueError: it is not from 0 to `MAX_NOUNS`.
    """
    if not 0 <= number <= MAX_NOUNS:
        raise ValueError(f"an answer counts 0 to {MAX_NOUNS} nouns, not {number}")
    hundreds, rest = divmod(number, 100)
    words = [_ONES[hundreds], "hundred"] if hundreds else []
    if rest >= 20:
        words.append(_TENS[rest // 10 - 2])
        rest %= 10
    return " ".join([*words, _ONES[rest]] if rest or not words else words)


def clean_noun(text: str) -> str:
    """A noun as it stands in an answer: one line, `defuse`d, without what joins it to others at its ends.

    These are dots, commas, colons, semicolons, and a leading "and". What the ends of a noun lose here, `read_nouns`
    could not tell from what an answer puts between two.
    """
    return _LEADING_AND.sub("", one_line(text).strip(" .,;:"))


def own_tokens(answer: str) -> str:
    """An answer with the vocabulary's "[SEG]" where somebody wrote the paper's "<SEG>" (spec gella A9)."""
    return answer.replace(_PAPER_SEG_TEXT, SEG_TEXT)


def read_nouns(answer: str) -> list[str]:
    """The nouns of an answer, one for each "[SEG]" in turn (spec gella D2).

    What the answer counts does not matter, nor do the commas and "and"s between nouns. Text after the last "[SEG]" is
    no noun; a "[SEG]" without words before it has the noun "", so that nouns and masks stay side by side.
    """
    *pieces, _ = _SEG.split(own_tokens(answer))
    if pieces:
        pieces[0] = _HEAD.sub("", pieces[0])
    return [clean_noun(piece) for piece in pieces]


def find_spans(nouns: Sequence[str], caption: str) -> list[Span | None]:
    """Where a caption has its nouns (spec gella D3).

    A noun is at its first occurrence, in any case of letters and with any white space between its words, that has no
    character of an earlier noun; as whole words if there is such an occurrence, else inside of words.

    Returns:
        For each noun, its first character and the one after its last; None if it does not occur, or not once more.
    """
    used = [False] * len(caption)
    spans = []
    for noun in nouns:
        words = r"\s+".join(map(re.escape, noun.split()))
        patterns = (rf"(?<!\w){words}(?!\w)", words) if words else ()
        span = next(filter(None, (_first_unused(pattern, caption, used) for pattern in patterns)), None)
        if span:
            used[slice(*span)] = [True] * (span[1] - span[0])
        spans.append(span)
    return spans


def _first_unused(pattern: str, caption: str, used: Sequence[bool]) -> Span | None:
    # Inside a lookahead a match takes no text, so that occurrences which overlap are all seen.
    found = (match.span(1) for match in re.finditer(f"(?=({pattern}))", caption, re.IGNORECASE))
    return next((span for span in found if not any(used[slice(*span)])), None)


def panoptic_caption(names: Sequence[str]) -> str:
    """A caption that has every name of a vocabulary (spec gella A11, D5).

    With `nouns_answer` of the same names, noun j is category j.

    Raises:
        ValueError: there are no names, one has no words, or one is there twice.
    """
    cleaned = [clean_noun(name) for name in names]
    if not cleaned or "" in cleaned:
        raise ValueError(f"a vocabulary needs names, each with a word, not {list(names)}")
    counts = collections.Counter(name.casefold() for name in cleaned)
    twice = sorted(name for name, count in counts.items() if count > 1)
    if twice:
        raise ValueError(f"the vocabulary has {', '.join(map(repr, twice))} more than once: leave one of each")
    *others, last = cleaned
    return f"There might exist a {', '.join(others)} and {last}." if others else f"There might exist a {last}."
