"""GSVA for people who want masks: load a model, hand it a picture, get answers.

    gsva = gsva_jax.load("tiny")
    answer = gsva.segment(image, ["the dog on the left", "giraffe"])

`segment` is the *guided* protocol: the wording of the answer is fixed by the expressions, the model only chooses [SEG]
or [REJ] for each, knowing its own earlier choices. `ask` and `Gsva.answer` are the *generated* one: the model writes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from grounding_jax.language.answers import Answer as ReadAnswer
from grounding_jax.language.answers import phrases, read_answer
from grounding_jax.language.batching import TARGETS, bucket, filled
from grounding_jax.language.generation import write
from grounding_jax.language.loaded import Loaded
from grounding_jax.language.rows import Conversation, Row
from grounding_jax.models import llama
from grounding_jax.models.mask_resize import mask_matrices, resize_masks
from grounding_jax.models.picture_resize import resized_size
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.sharding.placement import place
from grounding_jax.training.run_folder import BEST, IDENTITY_FILE, find_folder
from gsva_jax import model, prompts, weights
from gsva_jax.data import picture_arrays
from gsva_jax.passes import Reading, draw, read_rows, reread, see
from gsva_jax.sharding import table

ASSETS = epath.Path(__file__).parent / "assets"


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


@dataclasses.dataclass(frozen=True)
class Written:
    """A free answer, read.

    Attributes:
        text: as the model wrote it.
        rejected: bool ``[n]``, for each expression in turn whether the model wrote [REJ].
        missing: bool ``[n]``: the answer ended before this expression.
        surplus: number of [SEG] and [REJ] beyond the last expression.
        masks: mask logits float32 ``[n, H, W]``, zero where rejected or missing.
        scores: float ``[n]``, probability of [SEG] against [REJ].
    """

    text: str
    rejected: np.ndarray
    missing: np.ndarray
    surplus: int
    masks: np.ndarray
    scores: np.ndarray


class Prompt(NamedTuple):
    """A text that the model is to continue.

    Attributes:
        text: its ids.
        max_new: the most tokens to write.
        num_expressions: how many it asks for; None: every decision in the answer counts.
    """

    text: Conversation
    max_new: int
    num_expressions: int | None


class Gsva(Loaded):
    """A model in memory that segments what it is asked for, and answers questions; attributes as of `Loaded`."""

    TEMPLATES = prompts.TEMPLATES

    def segment(self, image: np.ndarray, expressions: Sequence[str], threshold: float = 0.5) -> Answer:
        """Masks for expressions, in the guided protocol.

        Args:
            image: uint8 ``[H, W, 3]`` RGB.
            expressions: what to look for.
            threshold: an expression is rejected where its score is lower; 0 never rejects.

        Returns:
            An `Answer` with one target an expression.

        Raises:
            ValueError: an expression is empty, or all together are longer than the model's context.
        """
        return self.segment_many([(image, expressions)], threshold)[0]

    def segment_many(
        self, requests: Sequence[tuple[np.ndarray, Sequence[str]]], threshold: float = 0.5
    ) -> list[Answer]:
        """`segment` for several pictures at once, in one batch; see there."""
        if not requests:
            return []
        cleaned = [[prompts.clean_expression(text) for text in texts] for _, texts in requests]
        if not all(cleaned):
            raise ValueError("there is no expression: name what to look for, like 'the dog on the left'")
        if self.tokenizer.rej is None:  # LISA answers one expression a conversation: each becomes a branch
            row = self.batcher.rows([[[prompts.guided_single(text)] for text in texts] for texts in cleaned], cleaned)
        else:
            row = self.batcher.rows([[[prompts.guided_list(texts)]] for texts in cleaned], cleaned)
        image, patches = self.see([picture for picture, _ in requests])
        row, reading, score = self.decide(row, patches, threshold)
        low = np.asarray(draw(self.config, self.params, reading.hidden, image))
        answers = []
        for b, (picture, texts) in enumerate(requests):
            rejected = row["target_rejected"][b, : len(cleaned[b])]
            # One after the other: as logits, many masks of a large picture would not fit into memory.
            masks = [self.full_size(one, picture.shape[:2]) > 0 for one in low[b, : len(cleaned[b])]]
            text = self.batcher.text_of(row["ids"][b], row["branch"][b])
            answers.append(Answer(text, _targets(texts, rejected, masks, score[b])))
        return answers

    def ask(
        self, image: np.ndarray, question: str, max_new: int = 256, temperature: float = 0.0, seed: int = 0
    ) -> Answer:
        """A free answer to a free question, with a mask for every [SEG] in it.

        Args:
            image: uint8 ``[H, W, 3]`` RGB.
            question: the user's words.
            max_new: the most tokens to write.
            temperature: 0 for the most likely answer, otherwise how freely tokens are drawn.
            seed: of the drawing.

        Returns:
            An `Answer`; the expression of a target is the stretch of the answer before its token.

        Raises:
            ValueError: the question is empty or longer than the model's context.
        """
        asked = prompts.free_question(question)
        written = self.answer([(image, asked)], max_new=max_new, temperature=temperature, seed=seed)[0]
        names = phrases(written.text)[: len(written.rejected)]
        return Answer(written.text, _targets(names, written.rejected, written.masks > 0, written.scores))

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
            num_expressions: how many expressions each question names; None: every decision counts.
            max_new, temperature, seed: see `ask`.

        Returns:
            What was written to each.
        """
        asked = []
        counts = num_expressions or [None] * len(requests)
        for (_, question), count in zip(requests, counts, strict=True):
            text = self.batcher.encode_prompt(question)
            asked.append(Prompt(text, min(max_new, self.batcher.room(question, text)), count))
        image, patches = self.see([picture for picture, _ in requests])
        return self.complete(asked, image, patches, [picture.shape[:2] for picture, _ in requests], temperature, seed)

    def complete(
        self,
        asked: Sequence[Prompt],
        image: jax.Array,
        patches: jax.Array,
        sizes: Sequence[tuple[int, int]],
        temperature: float = 0.0,
        seed: int = 0,
    ) -> list[Written]:
        """Continues a batch of prompts and reads what was written.

        Args:
            asked: the prompts of the first rows.
            image, patches: the rows' pictures, see `see`.
            sizes: the pictures' heights and widths.
            temperature, seed: see `ask`.
        """
        row = self.batcher.pack([[prompt.text] for prompt in asked], 0)
        keys = jnp.repeat(jax.random.key(seed)[None], len(row["ids"]))  # what is drawn does not depend on the batch
        most = max(prompt.max_new for prompt in asked)
        options = dict(max_new=most, eos=self.tokenizer.eos, temperature=temperature, mesh=self.mesh)
        result = write(self.config.llama, self.params["llama"], self.split(row), patches, keys, **options)
        ids = np.asarray(result.ids)
        # Each is cut at its own limit: what a row may write does not depend on the other rows.
        read = [
            read_answer(self.tokenizer, ids[b, : prompt.max_new], prompt.num_expressions)
            for b, prompt in enumerate(asked)
        ]
        return self._draw_written(read, result.states, image, sizes)

    def _draw_written(
        self,
        read: Sequence[ReadAnswer],
        states: jax.Array,
        image: jax.Array,
        sizes: Sequence[tuple[int, int]],
    ) -> list[Written]:
        """Masks and scores for the decisions of written answers."""
        M = bucket(max(len(answer.decisions) for answer in read), TARGETS)
        slots = np.full((len(states), M), -1, np.int32)
        for b, answer in enumerate(read):
            for j, decision in enumerate(answer.decisions):
                slots[b, j] = -1 if decision is None else decision.index
        hidden = model.gather(states, jnp.asarray(slots))
        low = np.asarray(draw(self.config, self.params, hidden, image))
        score = self.score(llama.logits(self.config.llama, self.params["llama"], hidden))
        written = []
        for b, answer in enumerate(read):
            n = len(answer.decisions)
            absent = np.array([decision is None for decision in answer.decisions], bool)
            rejected = np.array([decision is None or decision.rejected for decision in answer.decisions], bool)
            masks = self.full_size(np.where(rejected[:, None, None], 0.0, low[b, :n]), sizes[b])
            scores = np.where(absent, 0.0, score[b, :n])
            written.append(Written(answer.text, rejected & ~absent, absent, answer.surplus, masks, scores))
        return written

    def see(self, pictures: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
        """`see` for pictures of any sizes."""
        arrays = filled([picture_arrays(self.config, picture) for picture in pictures], self.batcher.multiple)
        batch = {name: np.stack([array[name] for array in arrays]) for name in ("sam_images", "resized", "clip_images")}
        return see(self.config, self.params, self.split(batch), self.dtype, self.mesh)

    def read(self, row: Row, patches: jax.Array) -> Reading:
        """`passes.read_rows` for rows on the host."""
        return read_rows(self.config, self.params, self.split(row), patches, mesh=self.mesh)

    def reread(self, row: Row, patches: jax.Array, reading: Reading, first: int) -> Reading:
        """`passes.reread` for rows on the host."""
        return reread(self.config, self.params, self.split(row), patches, reading, first)

    def decide(self, row: Row, patches: jax.Array, threshold: float) -> tuple[Row, Reading, np.ndarray]:
        """Chooses [SEG] or [REJ] for every target, each knowing the choices before it.

        Reads the rows as if all were [SEG], accepts the choices up to the first [REJ], writes it down and reads on from
        there. Equal to choosing token by token, with as many passes as there are rejections, the first one whole.

        Args:
            row: a batch of rows that say [SEG] everywhere.
            patches: see `see`.
            threshold: see `segment`.

        Returns:
            The rows as decided, what the model knows at their targets, and the scores float32 ``[B, M]``.
        """
        row = {name: array.copy() for name, array in row.items()}
        reading = self.read(row, patches)
        decided = np.zeros(len(row["ids"]), int)  # targets of each row whose choice stands
        kept = np.zeros(row["target_valid"].shape, np.float32)
        while True:
            # A choice that stands keeps its score: read again in another window, it may differ in the last bits.
            score = kept = np.where(np.arange(kept.shape[1]) < decided[:, None], kept, self.score(reading.logits))
            refused = row["target_valid"] & (score < threshold)
            refused &= np.arange(score.shape[1]) >= decided[:, None]
            changed = refused.any(1)
            if not changed.any():
                return row, reading, score
            first = refused.argmax(1)
            decided = np.where(changed, first + 1, score.shape[1])
            rows = np.flatnonzero(changed)
            slots = row["seg_positions"][rows, first[rows]] + 1
            row["ids"][rows, slots] = self.tokenizer.rej
            row["target_rejected"][rows, first[rows]] = True
            reading = self.reread(row, patches, reading, int(slots.min()))

    def score(self, logits: jax.Array) -> np.ndarray:
        """`model.seg_probability` on the host."""
        return np.asarray(model.seg_probability(self.tokenizer, logits))

    def full_size(self, low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Mask logits at the size of the picture: ``[..., l, l] -> float32 [..., H, W]``."""
        sam = self.config.sam
        return resize_masks(low, *mask_matrices(sam.low_res, sam.image_size, resized_size(size, sam.image_size), size))


def _targets(
    names: Sequence[str], rejected: np.ndarray, masks: Sequence[np.ndarray], scores: np.ndarray
) -> tuple[Target, ...]:
    """Targets from arrays; a rejected one's mask is empty."""
    return tuple(
        Target(name, bool(no), mask & ~no, float(score))
        for name, no, mask, score in zip(names, rejected, masks, scores[: len(names)], strict=True)
    )


def load(checkpoint: epath.PathLike, dtype=None, mesh: MeshShape | None = None) -> Gsva:
    """Loads a model for prediction.

    Args:
        checkpoint: a model folder, a finished run, a step of a run (``run@step`` or ``run@best``), or the name of a
            shipped model ("tiny").
        dtype: of the parameters and the computation, or its name; by default float32 on CPU and bfloat16 elsewhere.
        mesh: how the devices of this process are laid out, such as ``MeshShape(data=-1, fsdp=1)`` for a copy of the
            model on each, or ``MeshShape(fsdp=1, tensor=-1)`` for one that is too large for a device; None takes one.

    Raises:
        FileNotFoundError, ValueError: in one line, what is missing or does not fit.
    """
    config, params, tokenizer = weights.load(find_checkpoint(checkpoint))  # mapped files, nothing is read
    placed = place(params, table(config), dtype, mesh)
    return Gsva(config, placed.params, tokenizer, placed.dtype, placed.mesh)


def find_checkpoint(name: epath.PathLike) -> epath.Path:
    """The model folder that a name means: a shipped model's, that of a run or of a step of it, or the path itself.

    Raises:
        FileNotFoundError, ValueError: a run has no such step, or has not finished.
    """
    run, at, step = str(name).rpartition("@")
    if at and (step.isdigit() or step == BEST) and (epath.Path(run) / IDENTITY_FILE).exists():
        from gsva_jax.experiment import model_at  # what only training needs is not imported for a model folder

        return model_at(run, int(step) if step.isdigit() else None)
    return find_folder(name, ASSETS)
