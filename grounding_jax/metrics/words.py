"""AR_text: how many nouns of a caption a model's list of nouns has. The published numbers come without a definition.

This one is ours (spec gella e), so a table that shows it beside published numbers has to say so.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Self

from grounding_jax.metrics.outcomes import add_totals, ratio

# Words that do not change what a noun means: articles and possessives.
_DROPPED = {"a", "an", "the", "my", "your", "his", "her", "its", "our", "their"}
# Words after which a noun phrase only says more about its head.
_AFTER_HEAD = {"of", "in", "on", "at", "with", "from", "by", "near", "behind", "under", "over", "for", "to"}


@dataclasses.dataclass(frozen=True)
class WordTotals:
    """Sums over captions; those of parts of a dataset add up with ``+`` (spec gella e).

    Attributes:
        captions: captions with at least one true noun.
        recall: sum over these of the share of their true nouns that were predicted.
        relaxed: the same, with a half for each further noun of which only the head was predicted.
        matched, true, predicted: nouns of all captions.
    """

    captions: int = 0
    recall: float = 0.0
    relaxed: float = 0.0
    matched: int = 0
    true: int = 0
    predicted: int = 0

    @classmethod
    def of_caption(cls, predicted: Sequence[str], true: Sequence[str]) -> Self:
        """The sums of one caption: its predicted and its true nouns, in any order; a repeated noun counts again."""
        found, wanted = (Counter(map(normalize, nouns)) for nouns in (predicted, true))
        both = found & wanted
        heads, wanted_heads = (Counter(map(_head, rest.elements())) for rest in (found - both, wanted - both))
        num, matched = wanted.total(), both.total()
        return cls(
            captions=int(num > 0),
            recall=matched / num if num else 0.0,
            relaxed=(matched + 0.5 * (heads & wanted_heads).total()) / num if num else 0.0,
            matched=matched,
            true=num,
            predicted=found.total(),
        )

    def __add__(self, other: Self) -> Self:
        return add_totals(self, other)


def word_metrics(totals: WordTotals) -> dict[str, float | None]:
    """AR_text and its relatives, as fractions; None where there is nothing to average. The definition is ours.

    AR_text is the mean over captions of the recall of their nouns, AR_text_relaxed counts a half where only the head
    of a noun was named. text_recall, text_precision and text_F1 are over the nouns of all captions together.
    """
    return {
        "AR_text": ratio(totals.recall, totals.captions),
        "AR_text_relaxed": ratio(totals.relaxed, totals.captions),
        "text_recall": ratio(totals.matched, totals.true),
        "text_precision": ratio(totals.matched, totals.predicted),
        "text_F1": ratio(2 * totals.matched, totals.true + totals.predicted),
    }


def normalize(noun: str) -> str:
    """A noun as it is compared: lower case, without punctuation, articles and possessives, each word singular.

    "The man's T-shirts" -> "man t shirt". A noun of dropped words alone keeps them.
    """
    words = re.findall(r"\w+", re.sub(r"['’]s\b", "", noun.lower()))
    return " ".join(map(_singular, [word for word in words if word not in _DROPPED] or words))


def _singular(word: str) -> str:
    """A naive singular: regular endings only, so "people" stays what it is."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("ches", "shes", "sses", "xes")) else word[:-1]


def _head(noun: str) -> str:
    """The head of a normalised noun: the last word before the first preposition."""
    words = noun.split(" ")
    stop = next((i for i, word in enumerate(words) if i and word in _AFTER_HEAD), len(words))
    return words[stop - 1]
