"""The paper's mixture of datasets as one Grain dataset: example i is a function of (seed, i) (spec gsva c.4)."""

from __future__ import annotations

import dataclasses
import logging

import grain
import numpy as np

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.picture_resize import resized_size
from grounding_jax.data.sources.registry import Source
from grounding_jax.data.sources.semantic import always_labelled
from grounding_jax.files.pictures import open_picture
from grounding_jax.language.rows import encode_conversation, row_length
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.training.mixture import mixed, walked
from gsva_jax.config import GsvaConfig
from gsva_jax.data.arrays import canvas_masks, conversation_row, picture_arrays
from gsva_jax.data.features import FeatureFiles
from gsva_jax.data.samplers import Sample, draw_sample
from gsva_jax.prompts import TEMPLATES

log = logging.getLogger(__name__)

SEMANTIC = ("ade20k|training", "cocostuff|train2017", "pascal_part|train", "paco_lvis|train", "mapillary|training")
CLASSIC = ("refclef|unc|train", "refcoco|unc|train", "refcoco+|unc|train", "refcocog|umd|train")
REFERRING = (*CLASSIC, "grefcoco|unc|train")
TALK = ("llava_instruct_150k",)
REASONING = ("ReasonSeg|train",)


@dataclasses.dataclass(frozen=True)
class Family:
    """Datasets that are drawn from uniformly, and how much of the mixture they make up."""

    rate: float
    datasets: tuple[str, ...]


# The paper's 9 : 6 : 3 : 1.
PAPER = (Family(9, SEMANTIC), Family(6, REFERRING), Family(3, TALK), Family(1, REASONING))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Examples for `training.task.GsvaTask`.

    Attributes:
        root: the folder of all datasets, see docs/data.md.
        model: sizes.
        tokenizer: the vocabulary; one without [REJ] (LISA) has a conversation for each target.
        families: kinds of datasets to mix. With a single dataset, an epoch walks over all its images once.
        max_targets: M, the most targets of a picture; the paper has 5.
        length: T, slots of a row.
        canvas: side of the masks; those of a picture that is larger are made to fit.
        negative_share: see `samplers.sample_classes`.
        features: files of SAM's features of the pictures, if they are not computed in every step.
    """

    root: str
    model: GsvaConfig
    tokenizer: Tokenizer
    families: tuple[Family, ...] = PAPER
    max_targets: int = 5
    length: int = 1024
    canvas: int = 1024
    negative_share: float = 0.0
    features: FeatureFiles | None = None

    def __call__(self, seed: int) -> grain.MapDataset:
        """Endless examples as dicts of arrays of fixed shapes."""
        sources = {name: self._source(name) for family in self.families for name in family.datasets}
        return mixed(
            [
                (family.rate, [walked(sources[name], seed, self.example) for name in family.datasets])
                for family in self.families
            ]
        )

    def pictures(self) -> grain.MapDataset:
        """The `File` of every picture of all datasets, in the same order everywhere; read when it is asked for."""
        sources = [self._source(name) for family in self.families for name in family.datasets]
        images = [grain.MapDataset.source(source).map(lambda record: record.image) for source in sources]
        return grain.MapDataset.concatenate(images)

    def _source(self, name: str) -> Source:
        return open_dataset(self.root, name)

    def example(self, source: Source, number: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The example of a record; see `draw_sample` and `arrays` for the errors."""
        classes = always_labelled(source.name, getattr(source, "classes", ()))
        options = classes, self.negative_share, self.tokenizer.rej is not None
        return self.arrays(draw_sample(source[number], rng, self.max_targets, *options))

    def arrays(self, sample: Sample) -> dict[str, np.ndarray]:
        """A sample as arrays.

        Raises:
            ValueError: the picture can't be read, or is of another size than its masks.
        """
        image, masks = open_picture(sample.image), sample.masks
        if len(masks) and image.shape[:2] != masks.shape[1:]:
            sizes = [" x ".join(map(str, size)) for size in (image.shape[:2], masks.shape[1:])]
            raise ValueError(f"{sample.image} has {sizes[0]} pixels, but its annotation is for {sizes[1]}")
        size = image.shape[:2]
        if max(size) > self.canvas:  # the towers see the picture as it is
            size = resized_size(size, self.canvas)
            masks = nearest_masks(masks, size)
        conversations, masks = self.fitting(sample, masks)
        features = self.features.read(sample.image) if self.features else None
        return {
            **picture_arrays(self.model, image, features),
            "original": np.array(size, np.int32),
            **conversation_row(self.model, self.tokenizer, conversations, self.length, self.max_targets),
            "masks": canvas_masks(masks, self.canvas, self.max_targets),
        }

    def fitting(self, sample: Sample, masks: np.ndarray) -> tuple[list, np.ndarray]:
        """As many of a sample's conversations as a row has room for, with their masks.

        Raises:
            ValueError: a conversation with targets is too long by itself: cutting it would lose some.
        """
        template = TEMPLATES[self.model.template]
        patches = self.model.clip.num_patches
        limit = min(self.length, self.model.model_max_length)
        texts = [template.conversation(rounds) for rounds in sample.conversations]
        encoded = [encode_conversation(self.tokenizer, text, template.separator) for text in texts]
        if not len(masks):
            return sample.conversations[:1], masks  # without targets, the end of a text may be cut off
        if row_length(self.tokenizer, encoded[:1], patches) > limit:
            raise ValueError(f"the text about {sample.image} is longer than the {limit} tokens of a row: {texts[0]!r}")
        kept = max(
            n for n in range(1, len(encoded) + 1) if row_length(self.tokenizer, encoded[:n], patches) <= self.length
        )
        if kept < len(encoded):
            log.warning("%s: %d conversations have no room in the row", sample.image, len(encoded) - kept)
            masks = masks[:kept]  # where there are several conversations, each has one target
        return sample.conversations[:kept], masks


def nearest_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks of another size by their nearest pixels: bool ``[n, H, W] -> [n, *size]``."""
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns[None, :]]
