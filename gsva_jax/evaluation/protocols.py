"""The three ways of asking a model about a picture of a dataset, and reading its answer.

official: the right answer, with its [SEG] and [REJ], is the model's input, and decisions are read off it as the
release does (spec gsva a.11, c.6, f): the numbers to compare with papers.
guided: the wording is given, the model chooses [SEG] or [REJ] for each expression.
generated: the model writes the answer; the j-th [SEG] or [REJ] in it belongs to the j-th expression.

Nothing is truncated. A model without [REJ] (LISA) is asked for one target a conversation and rejects none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np
from etils import epath

from grounding_jax.data.sources.narratives import NarrativeRecord
from grounding_jax.data.sources.reasonseg import ReasonRecord
from grounding_jax.data.sources.refer import Record, evaluation_text
from grounding_jax.data.sources.semantic import ClassRecord
from grounding_jax.files.regular import File
from grounding_jax.inference.engine import Engine
from grounding_jax.language.batching import SLOTS, TARGETS, next_power, round_up
from grounding_jax.language.rows import Conversation, Row
from grounding_jax.language.tokenizer import IMAGE_TEXT, Tokenizer
from gsva_jax import prompts
from gsva_jax.engine import (
    Prompt,
    as_masks,
    decode_masks,
    encode_image,
    full_size,
    generate,
    guided_decode,
    prefill,
    prefill_from,
    score_of,
)

# For ReasonSeg's sentences, the wording that its evaluation has too.
_LONG_QUESTION = 1
# A generated answer may be this many times as long as the fixed wording, and this many tokens longer.
_ANSWER_FACTOR, _ANSWER_EXTRA = 2, 32


@dataclasses.dataclass(frozen=True)
class PresentClasses:
    """A picture that is asked for every class in its label map (spec gsva f.5).

    Attributes are called as in `refer.Record`.
    """

    record: ClassRecord

    @property
    def image(self) -> epath.Path:
        """The picture file."""
        return self.record.image

    @property
    def image_id(self) -> int | str:
        """The dataset's number or name of the picture."""
        return self.record.image_id

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the label map."""
        return self.record.size

    @property
    def expressions(self) -> list[str]:
        """The names of the classes."""
        return [wordings[0] for wordings in self.record.wordings]

    @property
    def families(self) -> list[str]:
        """What the metric keeps apart: the classes."""
        return self.expressions

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [n, H, W], decoded at the first use."""
        return self.record.masks_of(range(len(self.expressions)))

    @property
    def ignore(self) -> np.ndarray:
        """bool [H, W]: pixels of no class do not count."""
        return ~self.masks.any(0)

    @property
    def rejected(self) -> np.ndarray:
        """bool [n]: never; only what is there is asked for."""
        return np.zeros(len(self.expressions), bool)


@dataclasses.dataclass(frozen=True)
class GroundedPhrases:
    """A picture that is asked for every phrase of a caption that means something in it, one at a time.

    Attributes are called as in `refer.Record`.
    """

    record: NarrativeRecord
    ignore: ClassVar[None] = None

    @property
    def image(self) -> File:
        """The picture file."""
        return self.record.image

    @property
    def image_id(self) -> int:
        """The dataset's number of the picture."""
        return self.record.image_id

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the segments."""
        return self.record.size

    @functools.cached_property
    def places(self) -> tuple[int, ...]:
        """The places of these phrases among all."""
        return tuple(j for j, grounded in enumerate(self.record.grounded) if grounded)

    @property
    def left_out(self) -> int:
        """Number of the other phrases."""
        return len(self.record.grounded) - len(self.places)

    @property
    def expressions(self) -> list[str]:
        """The phrases."""
        return [evaluation_text(self.record.raw_expressions[j]) for j in self.places]

    @property
    def families(self) -> list[tuple[int, bool]]:
        """What the metric keeps apart: for each phrase how many segments it means, and whether they are things."""
        return [(len(self.record.segment_ids[j]), self.record.things[j]) for j in self.places]

    @functools.cached_property
    def masks(self) -> np.ndarray:
        """bool [n, H, W]: the union of each phrase's segments, decoded at the first use."""
        return self.record.masks_of(self.places)

    @property
    def rejected(self) -> np.ndarray:
        """bool [n]: never; only what is there is asked for."""
        return np.zeros(len(self.places), bool)


Asked = Record | ReasonRecord | PresentClasses | GroundedPhrases


class Request(NamedTuple):
    """What is asked about one picture.

    Attributes:
        record: the picture.
        texts: its conversations, or what begins them if the model is to write.
        num_targets: n.
        too_long: True if a text is longer than what the model was trained for.
        shape: pictures of one shape can be answered in one batch without much padding.
    """

    record: Asked
    texts: list[Conversation] | list[Prompt]
    num_targets: int
    too_long: bool
    shape: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model answered about one picture.

    Attributes:
        masks: bool ``[n, H, W]``.
        rejected: bool ``[n]``.
        missing: bool ``[n]``: the answer ended before this expression.
        scores: float ``[n]``, probability of [SEG] against [REJ].
        surplus: number of [SEG] and [REJ] beyond the last expression.
        text: text that the model wrote, if it did.
    """

    masks: np.ndarray
    rejected: np.ndarray
    missing: np.ndarray
    scores: np.ndarray
    surplus: int = 0
    text: str | None = None


class TeacherForced(NamedTuple):
    """What a model makes of right answers.

    Attributes:
        argmax: int32 ``[B, M]``, the token it would write in each target's place.
        rejected: bool ``[B, M]``, that read as a decision.
        scores: float32 ``[B, M]``, probability of [SEG] against [REJ].
        hidden: ``[B, M, D]``, the states that masks are made of.
    """

    argmax: np.ndarray
    rejected: np.ndarray
    scores: np.ndarray
    hidden: jax.Array


def prepare(engine: Engine, protocol: str, record: Asked, question: str = "what") -> Request:
    """Puts the questions about a picture into words; ``question`` is of `prompts.OFFICIAL_QUESTIONS`."""
    rounds = _rounds(engine.tokenizer, protocol, record, question)
    num = len(record.expressions)
    if protocol == "generated":
        count = num if len(rounds) == 1 else 1
        texts = [_prompt(engine, turn, count) for turn in rounds]
        lengths = [engine.batcher.length([prompt.text]) for prompt in texts]
        shape = round_up(max(lengths), SLOTS), max(prompt.max_new for prompt in texts)
    else:
        texts = engine.batcher.encode([[turn] for turn in rounds])
        lengths = [engine.batcher.length([text]) for text in texts]
        shape = round_up(engine.batcher.length(texts), SLOTS), round_up(num, TARGETS)
    return Request(record, texts, num, max(lengths) > engine.config.model_max_length, shape)


def predict(
    engine: Engine, protocol: str, requests: Sequence[Request], pictures: Sequence[np.ndarray], with_absent: bool
) -> list[Prediction]:
    """Answers a batch.

    Args:
        engine: the model.
        protocol: that of the requests.
        requests: the requests that `prepare` made.
        pictures: uint8 ``[H, W, 3]``, of the sizes in the requests' records.
        with_absent: True if the dataset has absent targets; the release evaluates those datasets in another way
            (spec gsva a.11, f).
    """
    image, patches = encode_image(engine, pictures)
    return _PROTOCOLS[protocol](engine, requests, image, patches, with_absent)


def teacher_force(engine: Engine, row: Row, patches: jax.Array, second_pass: bool) -> TeacherForced:
    """Reads right answers (spec gsva a.11).

    Args:
        engine: the model.
        row: a batch of rows whose answers have the right tokens.
        patches: see `encode_image`.
        second_pass: True if the states come from reading again with [SEG] in the place of every [REJ]. Only what
            stands behind the first of these is read again, and nothing where there is none.
    """
    prefilled = prefill(engine, row, patches)
    argmax = np.asarray(prefilled.logits.argmax(-1))
    rejected = official_decisions(engine.tokenizer, argmax, row["target_rejected"])
    scores = score_of(engine, prefilled.logits)
    if second_pass and row["target_rejected"].any():
        b, j = np.nonzero(row["target_rejected"])
        slots = row["seg_positions"][b, j] + 1
        ids = row["ids"].copy()
        # Only a picture's one list of targets has rejected ones, so j is their number in the conversation.
        ids[b, slots] = np.take(engine.tokenizer.seg, j, mode="wrap")
        prefilled = prefill_from(engine, {**row, "ids": ids}, patches, prefilled, int(slots.min()))
    return TeacherForced(argmax, rejected, scores, prefilled.hidden)


def official_decisions(tokenizer: Tokenizer, argmax: np.ndarray, rejected: np.ndarray) -> np.ndarray:
    """The release's decisions: any third token counts as the wrong one of the two (spec gsva a.11).

    Args:
        tokenizer: the model's; one without [REJ] rejects nothing.
        argmax: most likely tokens, int ``[...]``.
        rejected: the right decisions, bool ``[...]``.
    """
    if tokenizer.rej is None:
        return np.zeros_like(rejected)
    return np.where(rejected, argmax == tokenizer.rej, ~np.isin(argmax, tokenizer.seg))


def _official(
    engine: Engine, requests: Sequence[Request], image: jax.Array, patches: jax.Array, with_absent: bool
) -> list[Prediction]:
    row = engine.batcher.pack([request.texts for request in requests], max(request.num_targets for request in requests))
    forced = teacher_force(engine, row, patches, second_pass=with_absent)
    low = decode_masks(engine, forced.hidden, image)
    predictions = []
    for b, request in enumerate(requests):
        n = request.num_targets
        logits = full_size(engine, low[b, :n], request.record.size)
        # The thresholds differ (f.2, f.4), and without a second pass there is no mask at [REJ].
        masks = logits >= 0 if with_absent else (logits > 0) & ~row["target_rejected"][b, :n, None, None]
        predictions.append(Prediction(masks, forced.rejected[b, :n], np.zeros(n, bool), forced.scores[b, :n]))
    return predictions


def _guided(
    engine: Engine, requests: Sequence[Request], image: jax.Array, patches: jax.Array, with_absent: bool
) -> list[Prediction]:
    row = engine.batcher.pack([request.texts for request in requests], max(request.num_targets for request in requests))
    row, prefilled, scores = guided_decode(engine, row, patches, threshold=0.5)
    low = decode_masks(engine, prefilled.hidden, image)
    predictions = []
    for b, request in enumerate(requests):
        n = request.num_targets
        rejected = row["target_rejected"][b, :n]
        masks = as_masks(engine, full_size(engine, low[b, :n], request.record.size)) & ~rejected[:, None, None]
        predictions.append(Prediction(masks, rejected, np.zeros(n, bool), scores[b, :n]))
    return predictions


def _generated(
    engine: Engine, requests: Sequence[Request], image: jax.Array, patches: jax.Array, with_absent: bool
) -> list[Prediction]:
    asked = [(b, prompt) for b, request in enumerate(requests) for prompt in request.texts]
    written = [[] for _ in requests]
    for start in range(0, len(asked), len(image)):
        chunk = asked[start : start + len(image)]
        padded = chunk + chunk[:1] * (len(image) - len(chunk))
        owners = np.array([b for b, _ in padded])
        sizes = [requests[b].record.size for b in owners]
        encoded = engine.split((image[owners], patches[owners]))
        answers = generate(engine, [prompt for _, prompt in padded], *encoded, sizes)
        for (b, _), answer in zip(chunk, answers, strict=False):
            written[b].append(answer)
    return [
        Prediction(
            masks=as_masks(engine, np.concatenate([answer.masks for answer in several])),
            rejected=np.concatenate([answer.rejected for answer in several]),
            missing=np.concatenate([answer.missing for answer in several]),
            scores=np.concatenate([answer.scores for answer in several]),
            surplus=sum(answer.surplus for answer in several),
            text=" ".join(answer.text for answer in several),
        )
        for several in written
    ]


_PROTOCOLS: dict[str, Callable[..., list[Prediction]]] = {
    "official": _official,
    "guided": _guided,
    "generated": _generated,
}


def _rounds(tokenizer: Tokenizer, protocol: str, record: Asked, question: str) -> list[prompts.Round]:
    """Questions and answers about a picture, one a conversation; all its expressions in one where that can be."""
    if isinstance(record, PresentClasses):
        # Where everything is ignored, the picture is shown and nothing asked.
        return [prompts.official_class(text) for text in record.expressions] or [(IMAGE_TEXT, "")]
    single = tokenizer.rej is None or isinstance(record, ReasonRecord | GroundedPhrases)
    is_sentence = isinstance(record, ReasonRecord) and record.is_sentence
    if protocol == "official":
        if single:
            return [prompts.official_single(text, is_sentence) for text in record.expressions]
        return [prompts.official_list(record.expressions, record.rejected, question)]
    clean = prompts.defuse if is_sentence else prompts.clean_sentence
    texts = [clean(text) for text in record.expressions]
    if single:
        return [_guided_single(text, is_sentence) for text in texts]
    return [prompts.guided_list(texts)]


def _guided_single(text: str, is_sentence: bool) -> prompts.Round:
    index = _LONG_QUESTION if is_sentence else prompts.GUIDED_SHORT_QUESTION
    return prompts.single_question(text, is_sentence, index), prompts.single_answer(prompts.GUIDED_SINGLE_ANSWER)


def _prompt(engine: Engine, turn: prompts.Round, num_expressions: int) -> Prompt:
    """A question, and how much may be written: sizes that double, so that few programs are compiled."""
    question, answer = turn
    limit = _ANSWER_FACTOR * len(engine.tokenizer.encode(answer)) + _ANSWER_EXTRA
    return Prompt(engine.batcher.encode_prompt(question), next_power(limit, SLOTS), num_expressions)
