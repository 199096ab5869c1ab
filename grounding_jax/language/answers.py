"""Reading a written answer: which of its tokens decides about which expression."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

from grounding_jax.language.tokenizer import Tokenizer


class Decision(NamedTuple):
    """A [SEG] or [REJ] that the model wrote.

    Attributes:
        index: its place among the generated ids. Its mask is made of the state that predicted it, one
            slot earlier (spec gsva a.8).
        rejected: True if it is [REJ].
    """

    index: int
    rejected: bool


@dataclasses.dataclass(frozen=True)
class ReadAnswer:
    """A written answer, read.

    Attributes:
        text: as the model wrote it, without "</s>".
        decisions: the j-th belongs to the j-th expression; None where the answer has too few.
        missing: number of expressions without a decision.
        surplus: number of decisions beyond the last expression; they are left out above.
        finished: True if the model ended its answer; if not, it ran into the limit on new tokens.
    """

    text: str
    decisions: tuple[Decision | None, ...]
    missing: int
    surplus: int
    finished: bool


def read_answer(tokenizer: Tokenizer, ids: Sequence[int], num_expressions: int | None = None) -> ReadAnswer:
    """Reads what the model wrote after a prompt.

    Args:
        tokenizer: the model's.
        ids: generated ids; what follows the first "</s>" does not count.
        num_expressions: number of expressions asked for; by default every decision counts, as in a free question.
    """
    ids = [int(i) for i in ids]
    finished = tokenizer.eos in ids
    if finished:
        ids = ids[: ids.index(tokenizer.eos)]
    found = [
        Decision(index, i not in tokenizer.seg)
        for index, i in enumerate(ids)
        if i in tokenizer.seg or i == tokenizer.rej
    ]
    asked = len(found) if num_expressions is None else num_expressions
    missing = max(asked - len(found), 0)
    return ReadAnswer(
        text=tokenizer.decode(ids).strip(),
        decisions=(*found[:asked], *[None] * missing),
        missing=missing,
        surplus=max(len(found) - asked, 0),
        finished=finished,
    )


def phrases(text: str) -> list[str]:
    """What a text says right before each of its decisions: "..., the dog [SEG], a cat is [REJ]." -> the dog, a cat."""
    pieces = re.split(r"\[(?:SEG\d*|REJ)\]", text)[:-1]
    return [re.split(r"[,.;!?]", piece.rstrip(" :").removesuffix(" is"))[-1].strip() for piece in pieces]
