"""Evaluation on public datasets, with anybody's masks (`masks`), in one of three protocols (`tasks`).

    report = evaluate(gella, root, "png|val2017", "generated", "report.json", masks="MASKS")

What each picture gave is kept beside the report until it is written, so that an interrupted evaluation goes on where
it stopped.
"""

from __future__ import annotations

import functools

from etils import epath

import gella_jax
from gella_jax.evaluation.gallery import gallery_page
from gella_jax.evaluation.masks import mask_source
from gella_jax.evaluation.published import markdown_table
from gella_jax.evaluation.tasks import TASKS, Setting, measures_masks
from gella_jax.predict import OUTPUTS, Gella
from grounding_jax.data.datasets import open_dataset
from grounding_jax.evaluation.run import Evaluation, as_json, find_task, listed_predictions, run
from grounding_jax.segmenters import Segmenter


def evaluate(
    gella: Gella | None,
    root: epath.PathLike,
    dataset: str,
    protocol: str,
    out_json: epath.PathLike | None = None,
    predictions: epath.PathLike | None = None,
    *,
    masks: epath.PathLike | None = None,
    segmenter: Segmenter | None = None,
    markdown: epath.PathLike | None = None,
    gallery: epath.PathLike | None = None,
    output_masks: str | None = None,
    batch_size: int = 4,
    process: tuple[int, int] | None = None,
) -> dict[str, str | int | float | None]:
    """Evaluates a model on one split of a dataset.

    Args:
        gella: the model; None measures masks themselves, see `check_dataset`.
        root: the folder that holds coco/, refer_seg/ or entityseg/.
        dataset, protocol: see `check_dataset`.
        out_json: file for the result, too. Until it is there, FILE.partial.jsonl beside the first file asked for has
            what is done, and another call with the same arguments goes on from there.
        predictions: a file for every prediction, one line of JSON each, see `predictions`.
        masks: whose masks the model gets: "truth" for those of the dataset (of expressions, all instances in the
            picture), or a file or folder of `mask_file`; None lets a model find them that can.
        segmenter: finds the masks instead, see `load_segmenter`; ``masks`` is then its name for the report.
        markdown: a file for tables that have published numbers beside ours, see `published`.
        gallery: a file for a page that shows the best, the worst and some other pictures, see `gallery`.
        output_masks: see `Gella.ground`; by default "decoded" for datasets of entities that a model is asked about,
            else "input".
        batch_size: pictures at once. Results do not depend on it.
        process: (which, of how many) share the pictures, by default those of JAX.

    Returns:
        One flat dict: ``dataset``, ``protocol``, ``masks``, ``output_masks``, ``num_images``, ``num_targets``, metrics
        as fractions. Counted are pictures about which nothing was asked, with empty answers (``num_without_masks``,
        ``num_too_long`` for the context, ``num_wordless``), masks (``num_hidden``, ``num_surplus``, see `Grounding`),
        answers cut off (``num_unfinished``), and phrases that the caption lacks (``num_unplaced``).

    Raises:
        FileNotFoundError, ValueError: in one line: see `check_dataset` and `mask_source`; a file that is missing or
            damaged; or an unfinished evaluation of something else beside the files.
    """
    output_masks = check_dataset(dataset, protocol, output_masks, with_model=gella is not None)
    given = mask_source(masks, segmenter, None if gella is None else gella.segmenter)
    source = open_dataset(root, dataset)
    is_listed = bool(predictions or gallery)
    evaluation = Evaluation(
        gella_jax,
        gella,
        TASKS[dataset],
        Setting(protocol, output_masks, tuple(getattr(source, "categories", ())), given.find, is_listed),
        source,
        {"dataset": dataset, "protocol": protocol, "masks": given.name, "output_masks": output_masks},
        {"data": str(root), "segmenter": given.digest, "predictions": is_listed},
        given.given,
    )
    outputs = {
        out_json: as_json,
        predictions: listed_predictions,
        markdown: lambda report, lines: markdown_table(report),
        gallery: functools.partial(gallery_page, record_of=source.__getitem__),
    }
    return run(evaluation, outputs, batch_size, process)


def check_dataset(dataset: str, protocol: str, output_masks: str | None = None, with_model: bool = True) -> str:
    """Tells whether there is such an evaluation, before anything is loaded, and which masks it measures.

    Args:
        dataset: one of `tasks.TASKS`, such as "png|val2017" or "refcoco|unc|val".
        protocol: one of `run.PROTOCOLS`; categories and entities have the official one only.
        output_masks, with_model: see `evaluate`. Without a model, masks of entities are measured as they were put in.

    Returns:
        ``output_masks``.

    Raises:
        ValueError: there is not.
    """
    find_task(TASKS, dataset, protocol)
    if output_masks not in (None, *OUTPUTS):
        raise ValueError(f"output_masks is {output_masks!r}, should be {' or '.join(OUTPUTS)}")
    chosen = output_masks or ("decoded" if with_model and measures_masks(dataset) else "input")
    if not with_model and (chosen == "decoded" or not measures_masks(dataset)):
        raise ValueError(
            f"'{dataset}' with the masks that are {chosen} asks a model: name it with --checkpoint; without one, masks "
            "of entities can be measured as they were put in"
        )
    return chosen
