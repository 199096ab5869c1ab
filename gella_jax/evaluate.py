"""Evaluation on public datasets, with anybody's masks, in one of three protocols (`protocols`).

    report = evaluate(gella, root, "png|val2017", "generated", "report.json", masks="MASKS")

What each picture gave is kept beside the report until it is written, so that an interrupted evaluation goes on where
it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from etils import epath

from gella_jax.predict import OUTPUTS, Gella
from gella_jax.protocols import PROTOCOLS, TASKS, Item, Setting, Task, obstacle
from gella_jax.published import TRUE_MASKS, markdown_table
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import Entities, NoMasksError, read_masks
from grounding_jax.data.refer import Record
from grounding_jax.files.pictures import open_annotated
from grounding_jax.files.records import to_json
from grounding_jax.language.batching import bucket, filled
from grounding_jax.proposals import Proposals
from grounding_jax.unfinished import Unfinished

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
        out_json: where the result is written, too. Until then, FILE.partial.jsonl beside it has what is done, and
            another call with the same arguments goes on from there.
        masks: whose masks the model gets: "truth" for those of the dataset (of expressions, those that any expression
            about the picture means), or a file or folder of `mask_file`.
        propose: makes the masks instead, see `segmenters.load`; ``masks`` then only says in the report whose they are.
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
    task, source = TASKS[dataset], open_dataset(root, dataset)
    output_masks = output_masks or task.output_masks
    if output_masks not in OUTPUTS:
        raise ValueError(f"output_masks is {output_masks!r}, should be {' or '.join(OUTPUTS)}")
    setting = Setting(protocol, output_masks, tuple(getattr(source, "categories", ())))
    options = {"dataset": dataset, "protocol": protocol, "masks": str(masks), "output_masks": output_masks}
    unfinished = Unfinished.of(gella, root, options, len(source), (out_json, markdown), process)
    size = bucket(min(batch_size, max(len(unfinished.todo), 1)), gella.batcher.multiple)
    items = ((index, _item(source[index], masks, propose)) for index in unfinished.todo)
    unfinished.work(f"{dataset}, {protocol}", _answer(gella, items, setting, task, size))
    lines = unfinished.gather()
    report = {**options, "num_images": len(lines), **task.report(lines, setting), **_counts(lines)}
    texts = {out_json: lambda: to_json(report, indent=2) + "\n", markdown: lambda: markdown_table(report)}
    unfinished.finish(texts)
    return report


def check_dataset(dataset: str, protocol: str) -> None:
    """Tells whether there is such an evaluation, before anything is loaded.

    Args:
        dataset: of `protocols.TASKS`, such as "png|val2017" or "refcoco|unc|val".
        protocol: of `protocols.PROTOCOLS`; categories and entities have the official one only.

    Raises:
        ValueError: there is not.
    """
    if dataset not in TASKS:
        raise ValueError(f"'{dataset}' can't be evaluated; the datasets that can are {', '.join(TASKS)}")
    if protocol not in TASKS[dataset].protocols:
        known = PROTOCOLS if protocol not in PROTOCOLS else TASKS[dataset].protocols
        raise ValueError(f"'{dataset}' has no protocol '{protocol}'; there are {', '.join(known)}")


def mask_file(masks: epath.PathLike, picture: str) -> epath.Path:
    """Where the masks of a picture are: a json about all pictures, or in a folder what is called like the picture.

    Args:
        masks: the json, or the folder with STEM.png, STEM.json or the folder STEM for each picture, see `read_masks`.
        picture: the name of the picture's file.

    Raises:
        FileNotFoundError: there is nothing.
    """
    masks, stem = epath.Path(masks), epath.Path(picture).stem
    if masks.suffix.lower() == ".json" and not masks.is_dir():
        return masks
    places = [masks / f"{stem}.png", masks / f"{stem}.json", masks / stem]
    for place in places:
        if place.exists():
            return place
    raise FileNotFoundError(f"there are no masks for '{picture}': no {' or '.join(map(str, places))}")


def _item(record: Any, masks: epath.PathLike, propose: Propose | None) -> Item:
    """A record with its picture and the masks that the model gets."""
    image = open_annotated(record.image, record.size)
    if propose is not None:
        return Item(record, image, propose(image).entities)
    if str(masks) == TRUE_MASKS:
        return Item(record, image, _true_entities(record))
    name = record.image.name
    try:
        file = mask_file(masks, name)
        return Item(record, image, read_masks(file, record.size, image_id=record.image_id, name=name))
    except NoMasksError:
        return Item(record, image, Entities(np.zeros((0, *record.size), bool), (), ()))


def _true_entities(record: Any) -> Entities:
    """The masks of the dataset itself."""
    if not isinstance(record, Record):
        return record.entities
    first = {ref_id: place for place, ref_id in reversed(list(enumerate(record.ref_ids)))}
    ids = tuple(sorted(first))
    return Entities(record.masks_of([first[ref_id] for ref_id in ids]), ids, tuple(map(str, ids)))


def _answer(
    gella: Gella, items: Iterator[tuple[int, Item]], setting: Setting, task: Task, size: int
) -> Iterator[list[dict]]:
    """Lines of pictures, batch by batch; a picture that can't be asked about has an empty one."""
    batch: list[tuple[int, Item]] = []

    def lines() -> list[dict]:
        padded = filled([item for _, item in batch], size)  # another number of rows would be another program
        answers = task.answer(gella, padded, setting)
        return [{"index": index, **line} for (index, _), line in zip(batch, answers, strict=False)]

    for index, item in items:
        problem = obstacle(gella, item.record, setting) if len(item.entities.masks) else "without_masks"
        if problem:
            yield [{"index": index, **task.empty(item, setting), problem: 1}]
            continue
        batch.append((index, item))
        if len(batch) == size:
            yield lines()
            batch = []
    if batch:
        yield lines()


def _counts(lines: list[dict]) -> dict[str, int]:
    """What was left out of a whole split."""
    names = ("without_masks", "too_long", "wordless", "hidden", "surplus", "unfinished")
    return {f"num_{name}": sum(line.get(name, 0) for line in lines) for name in names}
