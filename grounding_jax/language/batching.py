"""Conversations about pictures as batches of rows, padded to a few lengths so that few programs are compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from grounding_jax.language.conversation import Round, Template
from grounding_jax.language.rows import (
    Conversation,
    Row,
    check_length,
    encode_conversation,
    encode_prompt,
    pack_row,
    row_length,
    stack_rows,
)
from grounding_jax.language.tokenizer import EOS_TEXT, Tokenizer

# Slots and targets of a row are padded to multiples of these.
SLOTS, TARGETS = 64, 8

_T = TypeVar("_T")


def round_up(size: int, step: int) -> int:
    """The next multiple of ``step`` that is at least ``size``, and at least ``step``."""
    return max(-(-size // step), 1) * step


def next_power(size: int, step: int) -> int:
    """The first of ``step``, 2 ``step``, 4 ``step``, ... that is at least ``size``: fewer sizes than `round_up` has."""
    return step << max(-(-size // step) - 1, 0).bit_length()


def pad_batch(batch: Sequence[_T], multiple: int) -> list[_T]:
    """The rows of a batch, and the first one again until they divide by ``multiple``."""
    return [*batch, *list(batch[:1]) * (-len(batch) % multiple)]


@dataclasses.dataclass(frozen=True)
class Batcher:
    """How one model reads conversations.

    Attributes:
        tokenizer: the model's.
        template: its conversation template.
        num_patches: slots of a picture.
        max_length: length of its context in tokens, picture included.
        multiple: a batch has a multiple of so many rows.
    """

    tokenizer: Tokenizer
    template: Template
    num_patches: int
    max_length: int
    multiple: int = 1

    def encode(self, conversations: Sequence[Sequence[Round]]) -> list[Conversation]:
        """The conversations about one picture, each a list of rounds, as ids."""
        texts = [self.template.conversation(rounds) for rounds in conversations]
        return [encode_conversation(self.tokenizer, text, self.template.separator) for text in texts]

    def encode_prompt(self, question: str) -> Conversation:
        """A question, up to where the model starts to write, as ids."""
        return encode_prompt(self.tokenizer, self.template.prompt(question))

    def length(self, conversations: Sequence[Conversation]) -> int:
        """Slots that the conversations about one picture need."""
        return row_length(self.tokenizer, conversations, self.num_patches)

    def room(self, question: str, prompt: Conversation) -> int:
        """The most tokens that the model can write after a prompt.

        Raises:
            ValueError: not one; names the question's length.
        """
        length = self.length([prompt])
        check_length(self.tokenizer, [question], length + 1, self.max_length)
        return self.max_length - length

    def pack(self, encoded: Sequence[Sequence[Conversation]], num_targets: int) -> Row:
        """Rows for the conversations of each picture, with up to ``num_targets`` targets, padded, as a batch."""
        shape = dict(
            num_patches=self.num_patches,
            length=round_up(max(self.length(several) for several in encoded), SLOTS),
            max_targets=round_up(num_targets, TARGETS),
        )
        return stack_rows(pad_batch([pack_row(self.tokenizer, several, **shape) for several in encoded], self.multiple))

    def rows(self, conversations: Sequence[list[list[Round]]], expressions: Sequence[Sequence[str]]) -> Row:
        """Rows padded to a few sizes, as a batch.

        Args:
            conversations: for each picture its conversations, each a list of rounds.
            expressions: for each picture what it is asked for, to name what is too long.

        Raises:
            ValueError: a conversation is longer than the model's context.
        """
        encoded = [self.encode(several) for several in conversations]
        for texts, several in zip(expressions, encoded, strict=True):
            longest = max(self.length([one]) for one in several)
            check_length(self.tokenizer, texts, longest, self.max_length)
        return self.pack(encoded, max(len(texts) for texts in expressions))

    def text_of(self, ids: np.ndarray, branch: np.ndarray) -> str:
        """The answers that stand in a row: int32 ``[T]``, int32 ``[T]``; those of several conversations in turn."""
        separator = self.template.separator.strip()
        texts = [self.tokenizer.decode(ids[branch == number]) for number in range(1, branch.max() + 1)]
        return " ".join(text.rsplit(separator, 1)[1].split(EOS_TEXT, 1)[0].strip() for text in texts)
