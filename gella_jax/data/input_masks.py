"""Somebody's masks in the place of the true ones, as what a GELLA is trained on (spec gella b; Tables 6b, 8a)."""

from __future__ import annotations

import numpy as np

from gella_jax.data.samplers import Sample
from grounding_jax.data.entity_masks import Entities


def with_masks(sample: Sample, inputs: Entities) -> Sample:
    """A sample whose entities are somebody's masks.

    A noun means those that have an IoU of more than one half with a mask that it truly means. One without any is not
    told: it is absent only if it was before.

    Args:
        sample: with the true entities.
        inputs: the masks that take their place; they may overlap.
    """
    wanted = set().union(*sample.meant)
    places = [place for place, number in enumerate(sample.entities.ids) if number in wanted]
    true_ids = [sample.entities.ids[place] for place in places]
    matches = dict(zip(true_ids, find_matches(sample.entities.masks[places], inputs.masks), strict=True))
    meant = [sorted(set().union(*(matches.get(number, ()) for number in noun))) for noun in sample.meant]
    return sample._replace(entities=inputs, meant=tuple(tuple(inputs.ids[j] for j in noun) for noun in meant))


def find_matches(true_masks: np.ndarray, inputs: np.ndarray) -> list[tuple[int, ...]]:
    """For each of bool ``[N, H, W]``, the places in ``[M, H, W]`` with an IoU of more than one half."""
    areas = np.array([np.count_nonzero(mask) for mask in inputs], np.int64)
    matches = []
    for mask in true_masks:
        shared = np.array([np.count_nonzero(mask & other) for other in inputs], np.int64)
        united = np.count_nonzero(mask) + areas - shared
        matches.append(tuple(np.flatnonzero(2 * shared > united).tolist()))
    return matches
