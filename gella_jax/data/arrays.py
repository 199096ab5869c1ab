"""From a picture and the masks of its entities to the arrays that a GELLA sees (spec gella A1, A8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from gella_jax.colormap import EntityMap, choose_colours, draw_entities, paint
from gella_jax.config import GellaConfig
from gella_jax.data.samplers import Sample
from gella_jax.prompts import TEMPLATES, describe_question
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.picture_resize import clip_input
from grounding_jax.language.conversation import Round
from grounding_jax.language.rows import Row, encode_conversation, encode_prompt, pack_row, row_length
from grounding_jax.language.tokenizer import Tokenizer


class Drawn(NamedTuple):
    """Masks as the mask branch gets them.

    Attributes:
        map: index of the mask seen at every pixel.
        colormap: uint8 ``[S, S, 3]``.
        surplus: bool ``[E]``, masks that are seen but have no query because there are more of them than queries.
    """

    map: EntityMap
    colormap: np.ndarray
    surplus: np.ndarray


def picture_arrays(config: GellaConfig, image: np.ndarray) -> dict[str, np.ndarray]:
    """A picture uint8 ``[H, W, 3]`` as CLIP takes it: ``clip_images`` uint8 ``[h, w, 3]``, ``clip_resized`` int32."""
    padded, resized = clip_input(image, config.clip.image_size)
    return {"clip_images": padded, "clip_resized": np.array(resized, np.int32)}


def draw(config: GellaConfig, entities: Entities, rng: np.random.Generator) -> Drawn:
    """Paints entities.

    Where more masks are seen than there are queries, the largest ones by what is seen of them are kept (spec gella D0).

    Args:
        config: sizes.
        entities: E masks.
        rng: draws the colours: fresh in every step of training, `colormap.repeatable_rng` otherwise.
    """
    scores = np.zeros(len(entities.masks)) if entities.scores is None else entities.scores
    drawn = draw_entities(entities.masks, scores, config.side)
    area = np.bincount(drawn.index.ravel(), minlength=len(scores) + 1)[1:]
    kept = np.zeros_like(drawn.visible)
    kept[np.argsort(-area, kind="stable")[: config.mask2former.queries]] = True
    surplus = drawn.visible & ~kept
    if surplus.any():  # without what they and those on top of them hid
        drawn = draw_entities(entities.masks & kept[:, None, None], scores, config.side)
    colours = choose_colours(config.colours, drawn, rng)
    return Drawn(drawn, paint(drawn.index, colours), surplus)


def entity_arrays(
    config: GellaConfig, entities: Entities, meant: Sequence[Sequence[int]], max_nouns: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Masks and what nouns mean of them, as arrays of fixed shapes; there is room for as many masks as queries, E.

    Args:
        config: sizes.
        entities: the masks that are put in.
        meant: for each noun, the places of the masks that it means.
        max_nouns: M.
        rng: see `draw`.

    Returns:
        ``colormaps`` uint8 ``[S, S, 3]``; ``index`` int16 ``[S, S]``, the number of the mask seen at a pixel, from 1;
        ``visible`` bool ``[E]``, false for padding; ``meant`` bool ``[M, E]``.
    """
    E, drawn = config.mask2former.queries, draw(config, entities, rng)
    kept = np.flatnonzero(drawn.map.visible)
    numbers = np.zeros(len(entities.masks) + 1, np.int16)
    numbers[kept + 1] = np.arange(1, len(kept) + 1)
    table = np.zeros((max_nouns, E), bool)
    for row, places in zip(table, meant, strict=False):
        row[: len(kept)] = np.isin(kept, places)
    return {
        "colormaps": drawn.colormap,
        "index": numbers[drawn.map.index],
        "visible": np.arange(E) < len(kept),
        "meant": table,
    }


def conversation_row(
    config: GellaConfig, tokenizer: Tokenizer, conversations: Sequence[Sequence[Round]], length: int, max_nouns: int
) -> Row:
    """The conversations about one picture as one padded row, see `rows.pack_row`; without any, nothing is learned.

    Raises:
        ValueError: they are longer than the row or the model's context, or have more nouns than there is room for.
    """
    template = TEMPLATES[config.template]
    encoded = [
        encode_conversation(tokenizer, template.conversation(rounds), template.separator) for rounds in conversations
    ]
    encoded = encoded or [encode_prompt(tokenizer, template.prompt(describe_question()))]
    for conversation in encoded:
        needed = row_length(tokenizer, [conversation], config.clip.num_patches)
        if needed > config.model_max_length:
            raise ValueError(f"a conversation has {needed} tokens, but the model takes {config.model_max_length}")
    return pack_row(tokenizer, encoded, num_patches=config.clip.num_patches, length=length, max_targets=max_nouns)


def example_arrays(
    config: GellaConfig,
    tokenizer: Tokenizer,
    image: np.ndarray,
    sample: Sample,
    length: int,
    max_nouns: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """What is learned about a picture as arrays of fixed shapes, for `model.forward` and `losses.batch_loss`.

    Args:
        config: sizes; a model without ResoBlend gets the colormap and its truth alone.
        tokenizer: the vocabulary.
        image: uint8 ``[H, W, 3]``.
        sample: the truth about it.
        length: T.
        max_nouns: M.
        rng: see `draw`.

    Returns:
        Those of `entity_arrays`, ``segmented`` bool, whether anything is known of the entities, ``absent`` bool
        ``[M]``, and those of `picture_arrays` and `conversation_row`.

    Raises:
        ValueError: see `conversation_row`; or nothing is seen of any of the entities.
    """
    text = {}
    if config.blend is not None:
        text = conversation_row(config, tokenizer, sample.conversations, length, max_nouns)
        text["absent"] = np.zeros(max_nouns, bool)
        text["absent"][: len(sample.absent)] = sample.absent
        text |= picture_arrays(config, image)
    entities = sample.entities
    if entities is None:
        entities = Entities(np.zeros((0, *image.shape[:2]), bool), (), ())
    place = {number: place for place, number in enumerate(entities.ids)}
    meant = [[place[number] for number in ids if number in place] for ids in sample.meant]
    arrays = entity_arrays(config, entities, meant, max_nouns, rng)
    if sample.entities is not None and not arrays["visible"].any():
        raise ValueError(f"nothing is seen of any entity of the picture, which has {len(entities.ids)}")
    arrays["segmented"] = np.array(sample.entities is not None)
    if config.blend is None:
        del arrays["meant"]
    return {**arrays, **text}
