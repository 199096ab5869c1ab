"""What the two branches of a GELLA in memory do, a batch at a time: one answers, the other segments entities."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from gella_jax import prompts, steps
from gella_jax.colormap import repeatable_rng
from gella_jax.config import GellaConfig
from gella_jax.data.arrays import Drawn, draw, picture_arrays
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.picture_resize import resized_size
from grounding_jax.inference import generation
from grounding_jax.inference.engine import Engine, fetch
from grounding_jax.language.answers import read_answer
from grounding_jax.language.batching import SLOTS, TARGETS, next_power, pad_batch, round_up
from grounding_jax.language.conversation import defuse
from grounding_jax.language.tokenizer import SEG_TEXT, Tokenizer
from grounding_jax.models.mask2former import Prediction
from grounding_jax.models.mask_resize import mask_matrices, resize_masks

LeftOut = Mapping[str, tuple[int, ...]]  # places of masks, by the reason for which they are no part of an answer

MOST_NEW = 512  # tokens that an answer may have
_MASKS = 16  # the number of masks is padded to this, doubled as often as needed


class Question(NamedTuple):
    """A question in the model's own format, and the user's text in it, which errors name."""

    text: str
    caption: str


class Written(NamedTuple):
    """An answer, read.

    Attributes:
        text: as it was written.
        nouns: in it.
        states: ``[M, D]``, for each noun the one that stands for it.
        finished: True if it ends by itself, not at the limit on tokens.
    """

    text: str
    nouns: tuple[str, ...]
    states: jax.Array
    finished: bool = True


class Segmented(NamedTuple):
    """What the mask branch makes of a batch of pictures.

    Attributes:
        drawn: the arrays drawn of each.
        prediction: the decoder's answer about them.
        queries: int32 ``[B, E]``, the query that stands for each mask; -1 where there is none.
    """

    drawn: list[Drawn]
    prediction: Prediction
    queries: np.ndarray

    def query_of_mask(self, b: int) -> np.ndarray:
        """int32 ``[E]``, the query of each mask of a picture; -1 where it has none."""
        return self.queries[b, : len(self.drawn[b].map.visible)]

    def by_mask(self, b: int, by_query: np.ndarray) -> np.ndarray:
        """Logits of the masks of a picture, -inf without a query: float32 ``[M, Q] -> [M, E]``."""
        query = self.query_of_mask(b)
        return np.where(query >= 0, by_query[:, query], np.float32(-np.inf))

    def entity_probability(self, b: int) -> np.ndarray:
        """How probable it is that each query is an entity at all: float32 ``[Q]``."""
        return fetch(jax.nn.softmax(self.prediction.class_logits[b]))[:, 0]

    def left_out(self, b: int) -> LeftOut:
        """Masks without a query: "hidden", of which nothing is seen, and "surplus", beyond the queries."""
        drawn = self.drawn[b]
        reasons = {"hidden": ~drawn.map.visible & ~drawn.surplus, "surplus": drawn.surplus}
        return {reason: tuple(np.flatnonzero(which).tolist()) for reason, which in reasons.items()}


def make_engine(
    config: GellaConfig, params: dict, tokenizer: Tokenizer, dtype=jnp.float32, mesh: Mesh | None = None
) -> Engine:
    """A GELLA in memory; for the arguments see `Engine`."""
    return Engine(config, params, tokenizer, prompts.TEMPLATES[config.template], dtype, mesh)


def encode_image(engine: Engine, images: Sequence[np.ndarray]) -> tuple[jax.Array, jax.Array]:
    """`steps.encode_image` for pictures of any sizes.

    Raises:
        ValueError: the model is a mask branch alone.
    """
    if engine.config.blend is None:
        raise ValueError("this model was trained on colormaps alone: it decodes masks, and has no words")
    arrays = pad_batch([picture_arrays(engine.config, image) for image in images], engine.batcher.multiple)
    batch = {name: np.stack([array[name] for array in arrays]) for name in arrays[0]}
    encoded = engine.split((batch["clip_images"], batch["clip_resized"]))
    return steps.encode_image(engine.config, engine.params, *encoded, engine.dtype, engine.mesh)


def segment_entities(
    engine: Engine, features: jax.Array | None, entities: Sequence[Entities], image_ids: Sequence[str]
) -> Segmented:
    """Draws the masks of a batch of pictures, and finds the queries that stand for them.

    Args:
        features: see `encode_image`; None for a model without ResoBlend.
        entities: the entities of each picture.
        image_ids: names of the pictures; random colours depend on them.
    """
    drawn = [
        draw(engine.config, masks, repeatable_rng(name, seed=0))
        for masks, name in zip(entities, image_ids, strict=True)
    ]
    E = next_power(max(len(masks.masks) for masks in entities), _MASKS)
    rows = pad_batch(drawn, engine.batcher.multiple)
    visible = np.zeros((len(rows), E), bool)
    for b, one in enumerate(rows):
        visible[b, : len(one.map.visible)] = one.map.visible
    prediction = steps.segment_entities(
        engine.config, engine.params, features, engine.split(np.stack([one.colormap for one in rows])), engine.dtype
    )
    for logits in (prediction.class_logits, prediction.mask_logits):
        fetch(jnp.abs(logits).max())  # the matching would not end
    index = engine.split((np.stack([one.map.index for one in rows]), visible))
    return Segmented(drawn, prediction, np.asarray(steps.match(prediction, *index)))


def prefill(
    engine: Engine, questions: Sequence[Question], nouns: Sequence[Sequence[str]], patches: jax.Array
) -> list[Written]:
    """Reads answers that name given nouns.

    Args:
        questions: about the pictures.
        nouns: the nouns of each answer.
        patches: see `encode_image`.

    Raises:
        ValueError: a conversation is longer than the model's context, or a noun is empty.
    """
    answers = [prompts.nouns_answer(some) for some in nouns]
    rounds = [(question.text, answer) for question, answer in zip(questions, answers, strict=True)]
    encoded = [engine.batcher.encode([[turn]]) for turn in rounds]
    for question, conversation in zip(questions, encoded, strict=True):
        _check_length(engine, question.caption, engine.batcher.length(conversation))
    row = engine.batcher.pack(encoded, max(len(some) for some in nouns))
    states = steps.prefill(engine.config, engine.params, engine.split(row), patches)
    return [
        Written(answer, tuple(some), states[b, : len(some)])
        for b, (answer, some) in enumerate(zip(answers, nouns, strict=True))
    ]


def generate(
    engine: Engine, questions: Sequence[Question], patches: jax.Array, max_new: int = MOST_NEW
) -> list[Written]:
    """Lets the model answer, and reads the answers.

    Args:
        questions: about the pictures.
        patches: see `encode_image`.
        max_new: the most tokens to write.

    Raises:
        ValueError: a question is longer than the model's context; says where it would be cut.
    """
    asked = [engine.batcher.encode_prompt(question.text) for question in questions]
    lengths = [engine.batcher.length([prompt]) for prompt in asked]
    for question, length in zip(questions, lengths, strict=True):
        _check_length(engine, question.caption, length + 1)
    row = engine.batcher.pack([[prompt] for prompt in asked], 0)
    limits = [min(max_new, engine.config.model_max_length - length) for length in lengths]
    # One more than is read: the state *at* a [SEG] is that from which the next token is chosen.
    options = dict(max_new=min(max_new, next_power(max(limits), SLOTS)) + 1, eos=engine.tokenizer.eos, mesh=engine.mesh)
    result = generation.generate(
        engine.config.llama, engine.params["llama"], engine.split(row), patches, None, **options
    )
    fetch(result.states[:, 0])  # words chosen from what is not finite would look like an answer
    ids = np.asarray(result.ids)
    return [_read_answer(engine, ids[b, :limit], result.states[b]) for b, limit in enumerate(limits)]


def _read_answer(engine: Engine, ids: np.ndarray, states: jax.Array) -> Written:
    """What was written, int32 ``[T]``, and the states from which each token and one more was chosen."""
    answer = read_answer(engine.tokenizer, ids)
    at = [decision.index for decision in answer.decisions]
    # By ids, so that text that only looks like the token is none.
    starts = [0, *(k + 1 for k in at)]
    pieces = [defuse(engine.tokenizer.decode(ids[start:end])) for start, end in zip(starts, at, strict=False)]
    nouns = prompts.read_nouns("".join(f" {piece} {SEG_TEXT}" for piece in pieces))
    slots = np.zeros(round_up(len(at), TARGETS), np.int32)
    slots[: len(at)] = np.array(at, np.int32) + (engine.config.seg_state == "at")
    return Written(answer.text, tuple(nouns), states[slots][: len(at)], answer.finished)


def associate(engine: Engine, answers: Sequence[Written], segmented: Segmented) -> list[np.ndarray]:
    """Tells how much each noun means each query: logits float32 ``[M, Q]`` for each picture."""
    M = round_up(max(len(answer.nouns) for answer in answers), TARGETS)
    states = [jnp.pad(answer.states, ((0, M - len(answer.nouns)), (0, 0))) for answer in answers]
    states = engine.split(jnp.stack(pad_batch(states, engine.batcher.multiple)))
    by_query = fetch(steps.associate(engine.config, engine.params, states, segmented.prediction.queries))
    return [one[: len(answer.nouns)] for one, answer in zip(by_query, answers, strict=False)]


def full_size(engine: Engine, segmented: Segmented, b: int, size: tuple[int, int]) -> Callable[[int], np.ndarray]:
    """A function from a query to its mask logits at the size of the picture, float32 ``[H, W]``."""
    low = fetch(segmented.prediction.mask_logits[b])
    matrices = matrices_of(engine, segmented, size)
    return lambda query: resize_masks(low[query], *matrices)


def matrices_of(engine: Engine, segmented: Segmented, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """From mask logits to a picture of a size, see `mask_matrices`."""
    side = engine.config.side
    return mask_matrices(segmented.prediction.mask_logits.shape[-1], side, resized_size(size, side), size)


def fits(engine: Engine, caption: str, nouns: Sequence[str] | None = None) -> bool:
    """Whether the question about a caption, and the answer where nouns are given, fit into the context."""
    question = prompts.nouns_question(caption)
    if nouns is None:
        conversation, answer = engine.batcher.encode_prompt(question), 1
    else:
        (conversation,), answer = engine.batcher.encode([[(question, prompts.nouns_answer(nouns))]]), 0
    return engine.batcher.length([conversation]) + answer <= engine.config.model_max_length


def _check_length(engine: Engine, caption: str, needed: int) -> None:
    """Raises ValueError where a conversation about a caption is longer than the context."""
    limit = engine.config.model_max_length
    if needed <= limit:
        return
    ids = engine.tokenizer.encode(caption)
    kept = engine.tokenizer.decode(ids[: max(len(ids) - (needed - limit), 0)])
    where = f"it would be cut after '...{kept[-40:]}'" if kept else "nothing of it would be left"
    raise ValueError(
        f"the caption with its question and answer needs {needed} tokens, picture included, but the model takes "
        f"{limit}: {where}"
    )
