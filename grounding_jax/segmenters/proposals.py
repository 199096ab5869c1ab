"""What every source of masks gives for a picture, in the same form as masks that are read from files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from grounding_jax.data.entity_masks import Entities


class Proposals(NamedTuple):
    """Masks that a model proposes for one picture.

    Attributes:
        entities: the masks, best first. Their ids are numbers of queries, or count from 0 where there are no queries.
        left_out: number of the model's masks that are not among them, by reason.
        stability: float32 [M], the share of a mask that stays where SAM's threshold is moved; None without SAM.
    """

    entities: Entities
    left_out: Mapping[str, int]
    stability: np.ndarray | None = None


def as_entities(masks: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> Entities:
    """Masks bool ``[M, H, W]`` without names, called by their ids ``[M]``, with their scores ``[M]``."""
    return Entities(masks, tuple(ids.tolist()), tuple(map(str, ids)), scores.astype(np.float32))


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Without overflow, whatever the logits are; of any shape."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)
