"""Conversations to arrays: ids and labels of a text, and one row for all conversations of a picture.

Everything up to the picture's end is the same in all conversations about it, so a row holds it once, as a
prefix; each conversation follows as a branch that sees the prefix and itself, at the positions it would have
alone. Labels are shifted inside a branch and never cross one. Nothing is lost between prefix and branch: the
first token of a branch belongs to a question, whose tokens are not learned; this is checked.

A row is a dict of NumPy arrays:

- ``ids`` int32 ``[T]``: tokens; `IMAGE_TOKEN` at each of the picture's slots, "<unk>" in padding.
- ``positions`` int32 ``[T]``: restart at the prefix's length in each branch.
- ``branch`` int32 ``[T]``: 0 prefix, 1, 2, ... conversations, -1 padding.
- ``labels`` int32 ``[T]``: the token that a slot must predict, or `IGNORED`.
- ``seg_positions`` int32 ``[M]``: the slot that predicts the target's [SEG] or [REJ], whose hidden state is
  read (spec gsva a.8); -1 where there is none: padding, and targets cut off by truncation, whose mask is
  logit 0.
- ``target_valid`` bool ``[M]``: false in padding; a target that was cut off is still valid.
- ``target_rejected`` bool ``[M]``: the token is [REJ].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grounding_jax.language.tokenizer import EOS_TEXT, Tokenizer
from grounding_jax.models.llava import IMAGE_TOKEN

IGNORED = -100

Row = dict[str, np.ndarray]


class Conversation(NamedTuple):
    """A text before the picture is expanded: int32 ids ``[S]`` and labels ``[S]``, labels not yet shifted."""

    ids: np.ndarray
    labels: np.ndarray


def encode_conversation(tokenizer: Tokenizer, text: str, separator: str) -> Conversation:
    """Ids and labels of a text; answers and the "</s>" after them are learned (spec gsva c.5).

    Args:
        tokenizer: the model's.
        text: rounds that end in "</s>", each of a question, the separator and an answer; see also
            `Tokenizer.number_targets`.
        separator: the template's.

    Raises:
        ValueError: a round has no separator, or several.
    """
    text = tokenizer.number_targets(text)
    ids = np.asarray(tokenizer.encode_with_image(text), np.int32)
    labels = ids.copy()
    labels[0] = IGNORED
    start = 1
    for turn in text.split(EOS_TEXT):
        if not turn:
            break
        if turn.count(separator) != 1:
            raise ValueError(f"{separator!r} must stand once between question and answer, unlike in {turn!r}")
        question = turn.partition(separator)[0] + separator
        # Without "<s>" and the separator's last space, which is a token only because nothing follows it here.
        length = len(tokenizer.encode_with_image(question)) - 2
        labels[start : start + length] = IGNORED
        start += len(tokenizer.encode_with_image(turn))  # "<s>" makes up for the lost "</s>"
    labels[start:] = IGNORED
    return Conversation(ids, labels)


def encode_prompt(tokenizer: Tokenizer, text: str) -> Conversation:
    """Ids of a text that the model is going to continue; nothing in it is learned."""
    ids = np.asarray(tokenizer.encode_with_image(text), np.int32)
    return Conversation(ids, np.full_like(ids, IGNORED))


def row_length(tokenizer: Tokenizer, conversations: Sequence[Conversation], num_patches: int) -> int:
    """Number of slots that `pack_row` needs for these conversations without truncation."""
    prefix = _prefix_length(tokenizer, conversations[0].ids)
    tails = sum(len(conversation.ids) - prefix for conversation in conversations)
    return prefix + tails + (num_patches - 1 if prefix else 0)


def check_length(tokenizer: Tokenizer, expressions: Sequence[str], needed: int, limit: int) -> None:
    """Tells which of the expressions make a row too long.

    Args:
        tokenizer: the model's.
        expressions: those of the row.
        needed: `row_length`.
        limit: length that the model takes.

    Raises:
        ValueError: more is needed than the limit; names the longest expression and its length.
    """
    if needed <= limit:
        return
    lengths = [len(tokenizer.encode(expression)) for expression in expressions]
    longest = int(np.argmax(lengths))
    raise ValueError(
        f"{len(expressions)} expression(s) make a text of {needed} tokens, picture included, but the model "
        f"takes {limit}; the longest is number {longest + 1} with {lengths[longest]} tokens: "
        f"{_short(expressions[longest])}"
    )


def pack_row(
    tokenizer: Tokenizer,
    conversations: Sequence[Conversation],
    *,
    num_patches: int,
    length: int | None = None,
    max_targets: int | None = None,
    truncate: int | None = None,
) -> Row:
    """Packs the conversations about one picture, or one without a picture, into a row (see the module).

    Args:
        tokenizer: the model's.
        conversations: they must agree up to the end of the picture.
        num_patches: slots of the picture.
        length: T; as long as necessary by default.
        max_targets: M; as many as there are by default.
        truncate: each conversation is cut, as if alone, to this many tokens including the picture's slots.
            The release does so in training, to ``model_max_length`` (spec gsva c.5).

    Raises:
        ValueError: the row does not fit, a conversation has two pictures or another beginning, a token before
            the picture's end is to be learned, or a text holds "<unk>".
    """
    kept, lost = _truncate(tokenizer, conversations, truncate, num_patches)
    prefix_ids = conversations[0].ids[: _prefix_length(tokenizer, conversations[0].ids)]
    prefix = np.repeat(prefix_ids, np.where(prefix_ids == IMAGE_TOKEN, num_patches, 1))
    ids, branch, positions = [prefix], [np.zeros_like(prefix)], [np.arange(len(prefix))]
    labels, targets, seg_positions = [np.full_like(prefix, IGNORED)], [], []
    start = len(prefix)
    for number, conversation in enumerate(kept, 1):
        _check(tokenizer, conversation, prefix_ids, number)
        tail = conversation.ids[len(prefix_ids) :]
        ids.append(tail)
        branch.append(np.full_like(tail, number))
        positions.append(len(prefix) + np.arange(len(tail)))
        labels.append(np.full_like(tail, IGNORED))
        labels[-1][:-1] = conversation.labels[len(prefix_ids) + 1 :]
        predictor = start + np.arange(len(tail)) - 1
        predictor[:1] = len(prefix) - 1  # what comes before a branch is the prefix, not the branch before it
        is_target = _is_target(tokenizer, tail)
        targets += [tail[is_target], lost[number - 1]]
        seg_positions += [predictor[is_target], np.full_like(lost[number - 1], -1)]
        start += len(tail)

    targets = np.concatenate(targets)
    T = _room(start, length, "tokens, picture included", tokenizer, kept)
    M = _room(len(targets), max_targets, "targets", tokenizer, kept)
    return {
        "ids": _padded(np.concatenate(ids), T, tokenizer.unk, np.int32),
        "positions": _padded(np.concatenate(positions), T, 0, np.int32),
        "branch": _padded(np.concatenate(branch), T, -1, np.int32),
        "labels": _padded(np.concatenate(labels), T, IGNORED, np.int32),
        "seg_positions": _padded(np.concatenate(seg_positions), M, -1, np.int32),
        "target_valid": _padded(np.full(len(targets), True), M, False, np.bool_),
        "target_rejected": _padded(~np.isin(targets, tokenizer.seg), M, False, np.bool_),
    }


def stack_rows(rows: Sequence[Row]) -> Row:
    """Rows of equal lengths as one batch, with a leading axis B.

    Raises:
        ValueError: the rows differ in length.
    """
    for name in rows[0]:
        lengths = sorted({len(row[name]) for row in rows})
        if len(lengths) > 1:
            raise ValueError(f"rows of different lengths do not stack: {name} has {lengths}")
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _is_target(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Which ids are [SEG] or [REJ]: bool ``[S]``."""
    return np.isin(ids, [*tokenizer.seg, *([] if tokenizer.rej is None else [tokenizer.rej])])


def _prefix_length(tokenizer: Tokenizer, ids: np.ndarray) -> int:
    """Number of ids up to the picture's end mark, before expansion; 0 without a picture."""
    (images,) = np.nonzero(ids == IMAGE_TOKEN)
    if len(images) == 0:
        return 0
    if len(images) > 1:
        raise ValueError(f"a conversation is about one picture, but this one has '<image>' {len(images)} times")
    end = int(images[0]) + 1
    return end + int(end < len(ids) and ids[end] == tokenizer.im_end)


def _truncate(
    tokenizer: Tokenizer, conversations: Sequence[Conversation], truncate: int | None, num_patches: int
) -> tuple[list[Conversation], list[np.ndarray]]:
    """Conversations cut to length, and the target tokens that each one lost."""
    kept, lost = [], []
    for ids, labels in conversations:
        # The picture's slots are subtracted even where a text has no picture.
        limit = len(ids) if truncate is None else max(truncate - (num_patches - 1), 0)
        rest = ids[limit:]
        kept.append(Conversation(ids[:limit], labels[:limit]))
        lost.append(rest[_is_target(tokenizer, rest)])
    return kept, lost


def _check(tokenizer: Tokenizer, conversation: Conversation, prefix: np.ndarray, number: int) -> None:
    """Raises ValueError where a conversation cannot be a branch behind this prefix."""
    ids, labels = conversation
    start = _prefix_length(tokenizer, ids)
    if not np.array_equal(ids[:start], prefix):
        raise ValueError(f"conversation {number} is unlike the first up to the picture's end, or was cut there")
    if (labels[: start + 1] != IGNORED).any():
        raise ValueError(f"conversation {number} has an answer before the picture: the picture must come first")
    # The release hides such a token from attention, taking it for padding (quirk 18). A row has no way to say
    # so, and no text needs it: a byte-fallback vocabulary spells everything, and prompts break up a written
    # "<unk>".
    if (ids == tokenizer.unk).any():
        raise ValueError(f"conversation {number} holds the token <unk>, which means padding: leave it out")


def _room(needed: int, limit: int | None, what: str, tokenizer: Tokenizer, kept: Sequence[Conversation]) -> int:
    """The length of an array, if what is needed fits."""
    if limit is not None and needed > limit:
        longest = max(kept, key=lambda conversation: len(conversation.ids))
        text = tokenizer.decode(longest.ids[_prefix_length(tokenizer, longest.ids) :])
        raise ValueError(f"a row needs {needed} {what}, but has room for {limit}: {_short(text)}")
    return needed if limit is None else limit


def _padded(values: np.ndarray, length: int, filler: int, dtype: type) -> np.ndarray:
    """Values and then fillers: ``[length]``."""
    result = np.full(length, filler, dtype)
    result[: len(values)] = values
    return result


def _short(text: str, most: int = 60) -> str:
    """A text as an error message can quote it."""
    return repr(text if len(text) <= most else text[: most - 3] + "...")
