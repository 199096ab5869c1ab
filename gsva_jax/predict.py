"""GSVA for people who want masks: load a model, hand it a picture, get answers.

    gsva = gsva_jax.load("tiny")
    answer = gsva.segment(image, ["the dog on the left", "giraffe"])

`segment` is the *guided* protocol: the wording of the answer is fixed by the expressions, the model only chooses [SEG]
or [REJ] for each, knowing its own earlier choices. `ask` and `Gsva.answer` are the *generated* one: the model writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from grounding_jax.inference.engine import Engine
from grounding_jax.inference.inputs import Picture, as_pairs, as_picture, as_text, as_texts
from grounding_jax.language.answers import phrases
from gsva_jax import prompts
from gsva_jax.engine import (
    Prompt,
    Written,
    as_masks,
    decode_masks,
    encode_image,
    full_size,
    generate,
    guided_decode,
)


@dataclasses.dataclass(frozen=True)
class Target:
    """The answer to one expression.

    Attributes:
        expression: as it was asked for; the answer's text has it as the model reads it.
        rejected: the model says that it is not in the picture.
        mask: bool ``[H, W]``; empty where rejected.
        score: probability of [SEG] against [REJ], in [0, 1].
    """

    expression: str
    rejected: bool
    mask: np.ndarray
    score: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """A whole answer: its text as the model reads or writes it, and its targets in order."""

    text: str
    targets: tuple[Target, ...]


class Gsva:
    """A model that segments what it is asked for, and answers questions.

    Attributes:
        engine: the model in memory.
    """

    def __init__(self, engine: Engine):
        self.engine = engine

    def segment(self, image: Picture, expressions: str | Sequence[str], threshold: float = 0.5) -> Answer:
        """Masks for expressions, in the guided protocol.

        Args:
            image: uint8 ``[H, W, 3]`` RGB, a Pillow picture or the path of a file.
            expressions: names of what to look for; a lone text is one expression.
            threshold: an expression is rejected where its score is lower; 0 never rejects.

        Returns:
            An `Answer` with one target an expression.

        Raises:
            ValueError: an expression is empty, all together are longer than the model's context, or the picture can't
                be read.
            TypeError: the picture or an expression is something else.
        """
        return self.segment_many([(image, expressions)], threshold)[0]

    def segment_many(
        self, requests: Sequence[tuple[Picture, str | Sequence[str]]], threshold: float = 0.5
    ) -> list[Answer]:
        """`segment` for several pictures with their expressions at once, in one batch; see there."""
        if not requests:
            return []
        pairs = as_pairs(requests, "expressions")
        requests = [(as_picture(picture), as_texts(texts, "an expression")) for picture, texts in pairs]
        cleaned = [[prompts.clean_expression(text) for text in texts] for _, texts in requests]
        if not all(cleaned):
            raise ValueError("there is no expression: name what to look for, like 'the dog on the left'")
        engine, batcher = self.engine, self.engine.batcher
        if engine.tokenizer.rej is None:  # LISA answers one expression a conversation: each becomes a branch
            row = batcher.rows([[[prompts.guided_single(text)] for text in texts] for texts in cleaned], cleaned)
        else:
            row = batcher.rows([[[prompts.guided_list(texts)]] for texts in cleaned], cleaned)
        image, patches = encode_image(engine, [picture for picture, _ in requests])
        row, prefilled, score = guided_decode(engine, row, patches, threshold)
        low = decode_masks(engine, prefilled.hidden, image)
        answers = []
        for b, (picture, texts) in enumerate(requests):
            rejected = row["target_rejected"][b, : len(cleaned[b])]
            # One after the other: as logits, many masks of a large picture would not fit into memory.
            low_res = low[b, : len(cleaned[b])]
            masks = [as_masks(engine, full_size(engine, one, picture.shape[:2])[None])[0] for one in low_res]
            text = batcher.text_of(row["ids"][b], row["branch"][b])
            answers.append(Answer(text, _targets(texts, rejected, masks, score[b])))
        return answers

    def ask(self, image: Picture, question: str, max_new: int = 256, temperature: float = 0.0, seed: int = 0) -> Answer:
        """A free answer to a free question, with a mask for every [SEG] in it.

        Args:
            image: uint8 ``[H, W, 3]`` RGB, a Pillow picture or the path of a file.
            question: the user's words.
            max_new: the most tokens to write.
            temperature: 0 for the most likely answer, otherwise how freely tokens are drawn.
            seed: random seed of the drawing.

        Returns:
            An `Answer`; the expression of a target is the stretch of the answer before its token.

        Raises:
            ValueError: the question is empty or longer than the model's context.
        """
        asked = prompts.free_question(as_text(question, "a question"))
        written = self.answer([(as_picture(image), asked)], max_new=max_new, temperature=temperature, seed=seed)[0]
        names = phrases(written.text)[: len(written.rejected)]
        return Answer(
            written.text, _targets(names, written.rejected, as_masks(self.engine, written.masks), written.scores)
        )

    def answer(
        self,
        requests: Sequence[tuple[np.ndarray, str]],
        num_expressions: Sequence[int] | None = None,
        max_new: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Written]:
        """Free generation for a batch of pictures and questions in the model's own format.

        Args:
            requests: uint8 pictures ``[H, W, 3]`` and questions that begin with "<image>" and a newline.
            num_expressions: number of expressions that each question names; None: every decision counts.
            max_new, temperature, seed: see `ask`.

        Returns:
            What was written to each.
        """
        asked = []
        counts = num_expressions or [None] * len(requests)
        for (_, question), count in zip(requests, counts, strict=True):
            text = self.engine.batcher.encode_prompt(question)
            asked.append(Prompt(text, min(max_new, self.engine.batcher.room(question, text)), count))
        image, patches = encode_image(self.engine, [picture for picture, _ in requests])
        sizes = [picture.shape[:2] for picture, _ in requests]
        return generate(self.engine, asked, image, patches, sizes, temperature, seed)


def _targets(
    names: Sequence[str], rejected: np.ndarray, masks: Sequence[np.ndarray], scores: np.ndarray
) -> tuple[Target, ...]:
    """Targets from arrays; a rejected one's mask is empty."""
    return tuple(
        Target(name, bool(no), mask & ~no, float(score))
        for name, no, mask, score in zip(names, rejected, masks, scores[: len(names)], strict=True)
    )
