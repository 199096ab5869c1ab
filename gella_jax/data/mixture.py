"""The mixture of tasks and datasets that a GELLA is trained on: example i is a function of (seed, i) (spec gella c)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Literal

import grain
import numpy as np

from gella_jax.config import GellaConfig
from gella_jax.data.arrays import example_arrays
from gella_jax.data.input_masks import with_masks
from gella_jax.data.samplers import TASKS, Draw
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import TRUE_MASKS, MaskReader, mask_reader
from grounding_jax.data.sources.registry import Source, find_dataset
from grounding_jax.files.pictures import open_annotated, open_picture
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.training.mixture import mixed, walked

TaskName = Literal["describe", "nouns", "ground", "refer", "panoptic", "entities"]


@dataclasses.dataclass(frozen=True)
class Family:
    """Datasets that one task is learned of, drawn from uniformly, and how much of the mixture they make up."""

    rate: float
    task: TaskName
    datasets: tuple[str, ...]


# .2 : .2 : .6 (Table 9). GPT-4's captions of EntitySeg were never released: nouns are those of narratives, and
# descriptions are LLaVA-Instruct's.
NARRATIVES = ("png|train2017",)
PAPER = (
    Family(0.2, "describe", ("llava_instruct_150k",)),
    Family(0.2, "nouns", NARRATIVES),
    Family(0.6, "ground", NARRATIVES),
)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Examples for `training.task.GellaTask`.

    Attributes:
        root: the folder of all datasets, see docs/data.md.
        model: sizes.
        tokenizer: the vocabulary.
        families: tasks and their datasets.
        max_nouns: M, the most nouns of an example.
        length: T, slots of a row.
        ungrounded: meaning of a narrative's noun without masks: "ignore", not told, or "negative", absent.
        masks: source of the masks that are put in and found again: "truth" for those of the datasets, or a file or
            folder of `mask_file`.
    """

    root: str
    model: GellaConfig
    tokenizer: Tokenizer
    families: tuple[Family, ...] = PAPER
    max_nouns: int = 64
    length: int = 1024
    ungrounded: Literal["ignore", "negative"] = "ignore"
    masks: str = TRUE_MASKS

    def __call__(self, seed: int) -> grain.MapDataset:
        """Endless examples as dicts of arrays of fixed shapes.

        Raises:
            FileNotFoundError: a dataset or the masks are not there.
            ValueError: one of them is damaged, or a dataset is none that its task can be learned of.
        """
        read_masks = None if self.masks == TRUE_MASKS else mask_reader(self.masks)
        for family in self.families:
            for name in family.datasets:
                _check_dataset(name, family.task)
        sources = {name: open_dataset(self.root, name) for family in self.families for name in family.datasets}
        families = []
        for place, family in enumerate(self.families):  # two of one dataset walk over it in different orders
            make = functools.partial(self.example, family.task, read_masks)
            families.append((family.rate, [walked(sources[name], seed + place, make) for name in family.datasets]))
        return mixed(families)

    def example(
        self, task: TaskName, read_masks: MaskReader | None, source: Source, number: int, rng: np.random.Generator
    ) -> dict[str, np.ndarray]:
        """The example of a record, with the masks of a reader or, without one, the true ones.

        Raises:
            Unusable: it gives none.
            OSError, ValueError: a file is missing or damaged, the picture has no entities or no masks that are to be
                put in, or more is said than there is room for.
        """
        record = source[number]
        draw = Draw(rng, self.max_nouns, self.ungrounded, getattr(source, "categories", ()))
        sample = TASKS[task].sample(record, draw)
        if sample.entities is not None and read_masks is not None:
            sample = with_masks(sample, read_masks(record.size, record.image_id, record.image.name))
        if sample.entities is None:
            image = open_picture(record.image)
        else:
            image = open_annotated(record.image, sample.entities.masks.shape[1:])
        return example_arrays(self.model, self.tokenizer, image, sample, self.length, self.max_nouns, rng)


def _check_dataset(name: str, task: TaskName) -> None:
    """Raises ValueError if a dataset is unknown, or none that a task can be learned of."""
    records = TASKS[task].records
    if find_dataset(name).record not in records:  # COCO's entities are panoptic records, but tell no categories
        known = ", ".join(record.__name__ for record in records)
        raise ValueError(f"'{name}' is no dataset to learn {task} of, which takes records of the kinds {known}")


def task_of(dataset: str) -> TaskName:
    """The task that tells most of a dataset; ValueError if there is none."""
    record = find_dataset(dataset).record
    for name in ("ground", "refer", "panoptic", "entities"):
        if record in TASKS[name].records:
            return name
    raise ValueError(f"'{dataset}' tells nothing of masks: name narratives, expressions, categories or entities")
