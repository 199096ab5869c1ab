"""From a picture and the masks of its entities to the arrays that a GELLA sees (spec gella A1, A8)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gella_jax.colormap import EntityMap, choose_colours, draw_entities, paint, repeatable_rng
from gella_jax.config import GellaConfig
from grounding_jax.data.entity_masks import Entities
from grounding_jax.data.picture_resize import clip_input


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


def draw(config: GellaConfig, entities: Entities, image_id: str) -> Drawn:
    """Paints entities in colours that are the same whenever the picture is.

    Where more masks are seen than there are queries, the largest ones by what is seen of them are kept (spec gella D0).

    Args:
        config: sizes.
        entities: E masks.
        image_id: name of the picture.
    """
    scores = np.zeros(len(entities.masks)) if entities.scores is None else entities.scores
    drawn = draw_entities(entities.masks, scores, config.side)
    area = np.bincount(drawn.index.ravel(), minlength=len(scores) + 1)[1:]
    kept = np.zeros_like(drawn.visible)
    kept[np.argsort(-area, kind="stable")[: config.mask2former.queries]] = True
    surplus = drawn.visible & ~kept
    if surplus.any():  # without what they and those on top of them hid
        drawn = draw_entities(entities.masks & kept[:, None, None], scores, config.side)
    colours = choose_colours(config.colours, drawn, repeatable_rng(image_id, seed=0))
    return Drawn(drawn, paint(drawn.index, colours), surplus)
