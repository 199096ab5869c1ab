"""What the parts of a GSVA in memory do, a batch at a time: the `steps` for pictures and texts of any sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grounding_jax.data.picture_resize import resized_size
from grounding_jax.inference import generation
from grounding_jax.inference.engine import Engine, fetch
from grounding_jax.inference.mask_parts import without_small_parts
from grounding_jax.language.answers import ReadAnswer, read_answer
from grounding_jax.language.batching import TARGETS, pad_batch, round_up
from grounding_jax.language.rows import Conversation, Row
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import llama
from grounding_jax.models.mask_resize import mask_matrices, resize_masks
from gsva_jax import model, prompts, steps
from gsva_jax.config import GsvaConfig
from gsva_jax.data.arrays import picture_arrays
from gsva_jax.steps import Prefilled


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
        num_expressions: number of expressions it asks for; None: every decision in the answer counts.
    """

    text: Conversation
    max_new: int
    num_expressions: int | None


def make_engine(
    config: GsvaConfig, params: dict, tokenizer: Tokenizer, dtype=jnp.float32, mesh: Mesh | None = None
) -> Engine:
    """A GSVA in memory; for the arguments see `Engine`."""
    return Engine(config, params, tokenizer, prompts.TEMPLATES[config.template], dtype, mesh)


def encode_image(engine: Engine, pictures: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """`steps.encode_image` for pictures uint8 ``[H, W, 3]`` of any sizes."""
    arrays = pad_batch([picture_arrays(engine.config, picture) for picture in pictures], engine.batcher.multiple)
    batch = {name: np.stack([array[name] for array in arrays]) for name in ("sam_images", "resized", "clip_images")}
    return steps.encode_image(engine.config, engine.params, engine.split(batch), engine.dtype, engine.mesh)


def prefill(engine: Engine, row: Row, patches: jax.Array) -> Prefilled:
    """`steps.prefill` for rows on the host."""
    return steps.prefill(engine.config, engine.params, engine.split(row), patches, mesh=engine.mesh)


def prefill_from(engine: Engine, row: Row, patches: jax.Array, prefilled: Prefilled, first: int) -> Prefilled:
    """`steps.prefill_from` for rows on the host."""
    return steps.prefill_from(engine.config, engine.params, engine.split(row), patches, prefilled, first)


def decode_masks(engine: Engine, hidden: jax.Array, image: jax.Array) -> np.ndarray:
    """`steps.decode_masks` on the host."""
    return fetch(steps.decode_masks(engine.config, engine.params, hidden, image))


def generate(
    engine: Engine,
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
        image, patches: the rows' pictures, see `encode_image`.
        sizes: the pictures' heights and widths.
        temperature, seed: see `Gsva.ask`.
    """
    row = engine.batcher.pack([[prompt.text] for prompt in asked], 0)
    keys = jnp.repeat(jax.random.key(seed)[None], len(row["ids"]))  # what is drawn does not depend on the batch
    most = max(prompt.max_new for prompt in asked)
    options = dict(max_new=most, eos=engine.tokenizer.eos, temperature=temperature, mesh=engine.mesh)
    result = generation.generate(
        engine.config.llama, engine.params["llama"], engine.split(row), patches, keys, **options
    )
    fetch(result.states[:, 0])  # words chosen from what is not finite would look like an answer
    ids = np.asarray(result.ids)
    # Each is cut at its own limit: what a row may write does not depend on the other rows.
    read = [
        read_answer(engine.tokenizer, ids[b, : prompt.max_new], prompt.num_expressions)
        for b, prompt in enumerate(asked)
    ]
    return _with_masks(engine, read, result.states, image, sizes)


def _with_masks(
    engine: Engine,
    read: Sequence[ReadAnswer],
    states: jax.Array,
    image: jax.Array,
    sizes: Sequence[tuple[int, int]],
) -> list[Written]:
    """Masks and scores for the decisions of written answers."""
    M = round_up(max(len(answer.decisions) for answer in read), TARGETS)
    slots = np.full((len(states), M), -1, np.int32)
    for b, answer in enumerate(read):
        for j, decision in enumerate(answer.decisions):
            slots[b, j] = -1 if decision is None else decision.index
    hidden = model.gather(states, jnp.asarray(slots))
    low = decode_masks(engine, hidden, image)
    score = score_of(engine, llama.logits(engine.config.llama, engine.params["llama"], hidden))
    written = []
    for b, answer in enumerate(read):
        n = len(answer.decisions)
        absent = np.array([decision is None for decision in answer.decisions], bool)
        rejected = np.array([decision is None or decision.rejected for decision in answer.decisions], bool)
        masks = full_size(engine, np.where(rejected[:, None, None], 0.0, low[b, :n]), sizes[b])
        scores = np.where(absent, 0.0, score[b, :n])
        written.append(Written(answer.text, rejected & ~absent, absent, answer.surplus, masks, scores))
    return written


def guided_decode(engine: Engine, row: Row, patches: jax.Array, threshold: float) -> tuple[Row, Prefilled, np.ndarray]:
    """Chooses [SEG] or [REJ] for every target, each knowing the choices before it.

    Prefills the rows as if all were [SEG], accepts the choices up to the first [REJ], writes it down and goes on from
    there. Equal to choosing token by token, with as many passes as there are rejections, the first one whole.

    Args:
        row: a batch of rows that say [SEG] everywhere.
        patches: see `encode_image`.
        threshold: see `Gsva.segment`.

    Returns:
        The rows as decided, what the model knows at their targets, and the scores float32 ``[B, M]``.
    """
    row = {name: array.copy() for name, array in row.items()}
    prefilled = prefill(engine, row, patches)
    decided = np.zeros(len(row["ids"]), int)  # targets of each row whose choice stands
    kept = np.zeros(row["target_valid"].shape, np.float32)
    while True:
        # A choice that stands keeps its score: read again in another window, it may differ in the last bits.
        score = kept = np.where(np.arange(kept.shape[1]) < decided[:, None], kept, score_of(engine, prefilled.logits))
        refused = row["target_valid"] & (score < threshold)
        refused &= np.arange(score.shape[1]) >= decided[:, None]
        changed = refused.any(1)
        if not changed.any():
            return row, prefilled, score
        first = refused.argmax(1)
        decided = np.where(changed, first + 1, score.shape[1])
        rows = np.flatnonzero(changed)
        slots = row["seg_positions"][rows, first[rows]] + 1
        row["ids"][rows, slots] = engine.tokenizer.rej
        row["target_rejected"][rows, first[rows]] = True
        prefilled = prefill_from(engine, row, patches, prefilled, int(slots.min()))


def score_of(engine: Engine, logits: jax.Array) -> np.ndarray:
    """`model.seg_probability` on the host; ValueError if it is not finite."""
    return fetch(model.seg_probability(engine.tokenizer, logits))


def full_size(engine: Engine, low: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Mask logits at the size of the picture: ``[..., l, l] -> float32 [..., H, W]``."""
    sam = engine.config.sam
    return resize_masks(low, *mask_matrices(sam.low_res, sam.image_size, resized_size(size, sam.image_size), size))


def as_masks(engine: Engine, logits: np.ndarray) -> np.ndarray:
    """Masks of logits at the size of the picture, without parts that are too small: float32 -> bool ``[n, H, W]``."""
    masks, fewest = logits > 0, engine.config.smallest_part
    return (
        np.array([without_small_parts(mask, fewest) for mask in masks], bool).reshape(masks.shape) if fewest else masks
    )
