"""What a command needs before it can ask: the model, one that finds masks, the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from etils import epath

from grounding_jax.terminal import loading

if TYPE_CHECKING:
    from gella_jax.predict import Gella
    from grounding_jax.data.sources.panoptic_classes import Category
    from grounding_jax.segmenters import Segmenter
    from grounding_jax.sharding.mesh import MeshShape


def load_model(checkpoint: str, dtype: str | None = None, mesh: MeshShape | None = None) -> Gella:
    """`gella_jax.load`, shown while it lasts."""
    with loading(checkpoint):
        from gella_jax.loading import load

        return load(checkpoint, dtype, mesh)


def load_segmenter(segmenter: str, dtype: str | None = None, mesh: MeshShape | None = None) -> Segmenter:
    """`segmenters.load_segmenter`, shown while it lasts."""
    with loading(segmenter):
        from grounding_jax import segmenters

        return segmenters.load_segmenter(segmenter, dtype, mesh)


def read_vocabulary(words: Sequence[str]) -> tuple[Category, ...]:
    """The categories of a panoptic segmentation.

    Args:
        words: names; or one file, of a name a line or a json with COCO's categories.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no name, or one is there twice; or the file is of no such kind.
    """
    from gella_jax import prompts
    from gella_jax.predict import as_categories

    categories = as_categories(_names(words))
    names = [category.spoken for category in categories]
    prompts.panoptic_caption(names)
    prompts.nouns_answer(names)
    return categories


def _names(words: Sequence[str]) -> Sequence[Category | str]:
    file = epath.Path(words[0])
    if len(words) > 1 or (file.suffix not in (".txt", ".json") and not file.is_file()):
        return words
    from grounding_jax.data.sources.panoptic import read_categories
    from grounding_jax.files.text import read_lines

    if file.suffix == ".json":
        return read_categories(file)
    return [line.strip() for _, line in read_lines(file)]
