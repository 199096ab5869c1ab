"""Evaluation on public datasets and on scenes, in one of three protocols that are never mixed (docs/architecture.md).

    report = evaluate(gsva_jax.load("tiny"), root, "grefcoco|unc|val", "generated", out_json="report.json")

What each picture gave is kept beside the report until it is written, so that an interrupted evaluation goes on where
it stopped.
"""

from __future__ import annotations

import functools

from etils import epath

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from grounding_jax.evaluation.run import Evaluation, as_json, find_task, listed_predictions, run
from gsva_jax.evaluation.gallery import gallery_page
from gsva_jax.evaluation.published import markdown_table
from gsva_jax.evaluation.tasks import TASKS, Setting, asks_for_list, record_of
from gsva_jax.predict import Gsva
from gsva_jax.prompts import OFFICIAL_QUESTIONS


def evaluate(
    gsva: Gsva,
    root: epath.PathLike,
    dataset: str,
    protocol: str,
    out_json: epath.PathLike | None = None,
    predictions: epath.PathLike | None = None,
    *,
    markdown: epath.PathLike | None = None,
    gallery: epath.PathLike | None = None,
    question: str = "what",
    batch_size: int = 8,
    blind: bool = False,
    process: tuple[int, int] | None = None,
) -> dict[str, str | bool | int | float | None]:
    """Evaluates a model on one split of a dataset.

    Args:
        gsva: the model.
        root: the folder that holds refer_seg/, reason_seg/, ade20k/ or coco/.
        dataset, protocol: see `check_dataset`.
        out_json: file for the result, too. Until it is there, FILE.partial.jsonl beside the first file asked for has
            what is done, and another call with the same arguments goes on from there.
        predictions: a file for every prediction, one line of JSON each: what `gsva segment` writes of a target, and
            the picture, the pixels of both masks and, where the model wrote freely, its answer.
        markdown: a file for a table that has published numbers beside ours, see `published`.
        gallery: a file for a page that shows the best, the worst and some other pictures, see `gallery`.
        question: wording of the official protocol's question for a list: one of `prompts.OFFICIAL_QUESTIONS`.
        batch_size: pictures at once, rounded up to what divides over the model's mesh. Results do not depend on it.
        blind: show a grey picture instead of the right one, for what the text alone gives away.
        process: (which, of how many) share the pictures, by default those of JAX. Each returns the whole report, the
            first one writes the files.

    Returns:
        One flat dict: ``dataset``, ``protocol``, ``blind``, ``question`` where there is a choice, ``num_images``; and
        what `tasks.report` gives.

    Raises:
        FileNotFoundError, ValueError: in one line: see `check_dataset`; a file of the dataset that is missing or
            damaged; or an unfinished evaluation of something else beside the files.
    """
    check_dataset(dataset, protocol, question)
    source = open_dataset(root, dataset)
    is_listed = bool(predictions or gallery)
    evaluation = Evaluation(
        gsva_jax,
        gsva,
        find_task(TASKS, dataset, protocol),
        Setting(protocol, question, blind, is_listed),
        source,
        {"dataset": dataset, "protocol": protocol, "blind": blind, **_question(gsva, dataset, protocol, question)},
        {"data": str(root), "predictions": is_listed},
    )
    outputs = {
        out_json: as_json,
        predictions: listed_predictions,
        markdown: lambda report, lines: markdown_table(report),
        gallery: functools.partial(gallery_page, record_of=lambda index: record_of(source[index])),
    }
    return run(evaluation, outputs, batch_size, process)


def check_dataset(dataset: str, protocol: str, question: str = "what") -> None:
    """Tells whether there is such an evaluation, before anything is loaded.

    Args:
        dataset: such as "grefcoco|unc|val"; of `tasks.TASKS`. "ade20k|validation" has the official protocol only.
        protocol: "official", "guided" or "generated", see `protocols`.
        question: one of `prompts.OFFICIAL_QUESTIONS`; "what" where the protocol does not ask for a list.

    Raises:
        ValueError: there is not.
    """
    find_task(TASKS, dataset, protocol)
    if question not in OFFICIAL_QUESTIONS:
        raise ValueError(f"unknown question '{question}'; there are {', '.join(OFFICIAL_QUESTIONS)}")
    if question != "what" and not asks_for_list(dataset, protocol):
        raise ValueError(
            f"the question '{question}' is of the official protocol on datasets of expressions; "
            f"'{dataset}' in the protocol '{protocol}' has only 'what'"
        )


def _question(gsva: Gsva, dataset: str, protocol: str, question: str) -> dict[str, str]:
    """The question as reports have it, where there is a choice."""
    if not asks_for_list(dataset, protocol):
        return {}
    if gsva.engine.tokenizer.rej is None and question != "what":
        raise ValueError(
            f"a model without [REJ] is asked for one target at a time, not for a list in form '{question}'"
        )
    return {} if gsva.engine.tokenizer.rej is None else {"question": question}
