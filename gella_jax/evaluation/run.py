"""Evaluation on public datasets, with anybody's masks, in one of three protocols (`tasks`).

    report = evaluate(gella, root, "png|val2017", "generated", "report.json", masks="MASKS")

What each picture gave is kept beside the report until it is written, so that an interrupted evaluation goes on where
it stopped.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from etils import epath

import gella_jax
from gella_jax.evaluation.published import markdown_table
from gella_jax.evaluation.tasks import TASKS, Setting, usual_masks
from gella_jax.predict import OUTPUTS, Gella
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import TRUE_MASKS, Entities, NoMasksError, mask_file, read_masks
from grounding_jax.data.sources.refer import Record
from grounding_jax.evaluation.run import Evaluation, as_json, find_task, run
from grounding_jax.files import digests
from grounding_jax.segmenters.proposals import Proposals

Propose = Callable[[np.ndarray], Proposals]


def evaluate(
    gella: Gella,
    root: epath.PathLike,
    dataset: str,
    protocol: str,
    out_json: epath.PathLike | None = None,
    *,
    masks: epath.PathLike = TRUE_MASKS,
    propose: Propose | None = None,
    markdown: epath.PathLike | None = None,
    output_masks: str | None = None,
    batch_size: int = 4,
    process: tuple[int, int] | None = None,
) -> dict[str, str | int | float | None]:
    """Evaluates a model on one split of a dataset.

    Args:
        gella: the model.
        root: the folder that holds coco/, refer_seg/ or entityseg/.
        dataset, protocol: see `check_dataset`.
        out_json: file for the result, too. Until it is there, FILE.partial.jsonl beside it has what is done, and
            another call with the same arguments goes on from there.
        masks: whose masks the model gets: "truth" for those of the dataset (of expressions, those that any expression
            about the picture means), or a file or folder of `mask_file`.
        propose: makes the masks instead, see `load_segmenter`; ``masks`` then only says in the report whose they are.
        markdown: a file for a table that has published numbers beside ours.
        output_masks: see `Gella.ground`; by default "decoded" for datasets of entities, else "input".
        batch_size: pictures at once. Results do not depend on it.
        process: (which, of how many) share the pictures, by default those of JAX.

    Returns:
        One flat dict: ``dataset``, ``protocol``, ``masks``, ``output_masks``, ``num_images``, ``num_targets``, metrics
        as fractions. Pictures are counted in ``num_without_masks``, ``num_too_long`` (for the context) and
        ``num_wordless`` where nothing was asked, so that their answers are empty; masks in ``num_hidden`` and
        ``num_surplus``, see `Grounding`; answers that ended at the limit on tokens in ``num_unfinished``.

    Raises:
        FileNotFoundError, ValueError: in one line: see `check_dataset`; a file that is missing or damaged; or an
            unfinished evaluation of something else beside the files.
    """
    check_dataset(dataset, protocol)
    output_masks = output_masks or usual_masks(dataset)
    if output_masks not in OUTPUTS:
        raise ValueError(f"output_masks is {output_masks!r}, should be {' or '.join(OUTPUTS)}")
    source = open_dataset(root, dataset)
    entities = functools.partial(_entities, masks=masks, propose=propose)
    evaluation = Evaluation(
        gella_jax,
        gella,
        TASKS[dataset],
        Setting(protocol, output_masks, tuple(getattr(source, "categories", ())), entities),
        source,
        {"dataset": dataset, "protocol": protocol, "masks": str(masks), "output_masks": output_masks},
        {"data": str(root), "segmenter": _digest(masks) if propose else None},
        None if propose or str(masks) == TRUE_MASKS else functools.partial(_read_entities, masks=masks),
    )
    return run(
        evaluation, {out_json: as_json, markdown: lambda report, lines: markdown_table(report)}, batch_size, process
    )


def check_dataset(dataset: str, protocol: str) -> None:
    """Tells whether there is such an evaluation, before anything is loaded.

    Args:
        dataset: one of `tasks.TASKS`, such as "png|val2017" or "refcoco|unc|val".
        protocol: one of `run.PROTOCOLS`; categories and entities have the official one only.

    Raises:
        ValueError: there is not.
    """
    find_task(TASKS, dataset, protocol)


def _entities(record: Any, image: np.ndarray, masks: epath.PathLike, propose: Propose | None) -> Entities:
    """The masks that the model gets about a picture."""
    if propose is not None:
        return propose(image).entities
    return _true_entities(record) if str(masks) == TRUE_MASKS else _read_entities(record, masks)


def _read_entities(record: Any, masks: epath.PathLike) -> Entities:
    """Somebody's masks of a picture, of which there may be none."""
    try:
        file = mask_file(masks, record.image.name)
        return read_masks(file, record.size, image_id=record.image_id, name=record.image.name)
    except NoMasksError:
        return Entities(np.zeros((0, *record.size), bool), (), ())


def _digest(segmenter: epath.PathLike) -> str | None:
    """Of the file or folder of a model that makes masks; None where what it is called is no path."""
    path = epath.Path(segmenter)
    return digests.of_file(path) if path.exists() else None


def _true_entities(record: Any) -> Entities:
    """The masks of the dataset itself."""
    if not isinstance(record, Record):
        return record.entities
    first = {ref_id: place for place, ref_id in reversed(list(enumerate(record.ref_ids)))}
    ids = tuple(sorted(first))
    return Entities(record.masks_of([first[ref_id] for ref_id in ids]), ids, tuple(map(str, ids)))
