"""Whose masks a model gets about the pictures of a dataset: the dataset's own, anybody's, or those that a model finds.

    source = mask_source("MASKS")              # a folder, or a json about all pictures
    source.find(records, pictures)             # [Entities, ...], of which some may be empty

There is no default: a number with true masks and one with predicted masks are numbers of two different tasks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from grounding_jax.data.entity_masks import TRUE_MASKS, Entities, NoMasksError, mask_reader
from grounding_jax.evaluation.identity import weights_digest
from grounding_jax.files import digests
from grounding_jax.segmenters import Segmenter

OWN_MASKS = "its own"  # what reports call those that the model finds without anybody's help


class MaskSource(NamedTuple):
    """Where masks come from.

    Attributes:
        name: whose they are, as reports have it.
        find: ``(records, pictures) -> Entities`` of each, perhaps none.
        given: ``record -> Entities``, where they come from neither the dataset nor a model: then they tell evaluations
            apart, and so does
        digest: that of the model that finds them.
    """

    name: str
    find: Callable[[Sequence[Any], Sequence[np.ndarray]], list[Entities]]
    given: Callable[[Any], Entities] | None = None
    digest: str | None = None


def mask_source(
    masks: epath.PathLike | None, segmenter: Segmenter | None = None, own: Segmenter | None = None
) -> MaskSource:
    """The source of masks that an evaluation is asked for.

    Args:
        masks: "truth", a file or folder of `mask_file`, or the name of ``segmenter``; None takes ``own``.
        segmenter: finds them.
        own: the part of the model that is evaluated which finds masks, if it has one.

    Raises:
        ValueError: nothing says whose masks are meant.
    """
    if segmenter is not None:
        path = epath.Path(masks)
        return MaskSource(str(masks), _finder(segmenter), digest=digests.of_file(path) if path.exists() else None)
    if masks is None and own is not None:
        arrays = [leaf for leaf in jax.tree.leaves(getattr(own, "args", ())) if isinstance(leaf, jax.Array)]
        return MaskSource(OWN_MASKS, _finder(own), digest=weights_digest(arrays))
    if masks is None:
        raise ValueError(
            f"whose masks? There are --masks {TRUE_MASKS}, those of the dataset; --masks SOURCE, anybody's; and "
            "--segmenter FILE, a model that finds them"
        )
    if str(masks) == TRUE_MASKS:
        return MaskSource(TRUE_MASKS, lambda records, pictures: [record.entities for record in records])
    given = functools.partial(_read, mask_reader(masks))
    return MaskSource(str(masks), lambda records, pictures: list(map(given, records)), given)


def whose_masks(report: dict) -> str:
    """The first line of a report: whose masks its numbers are of."""
    names = {
        TRUE_MASKS: "those of the dataset itself (truth)",
        OWN_MASKS: "those that the model finds without help (its own)",
    }
    missing = report["num_without_masks"]
    counted = f"; none for {missing} of {report['num_images']} pictures" if missing else ""
    return f"masks: {names.get(report['masks'], report['masks'])}{counted}"


def _finder(segmenter: Segmenter) -> Callable[[Sequence[Any], Sequence[np.ndarray]], list[Entities]]:
    return lambda records, pictures: [proposals.entities for proposals in segmenter(pictures)]


def _read(read: Callable[..., Entities], record: Any) -> Entities:
    """Somebody's masks of a picture."""
    name = record.image.name
    try:
        return read(record.size, record.image_id, name)
    except NoMasksError:
        return Entities(np.zeros((0, *record.size), bool), (), ())
    except ValueError as error:
        raise ValueError(f"the masks of '{name}': {error}") from error
