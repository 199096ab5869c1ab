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

_CATEGORY = '{"id": 1, "name": "sky", "isthing": 0}'


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
        words: names; or one file, of a name a line or a json with COCO's categories. None: those of COCO.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no name, or one is there twice; or the file is of no such kind.
    """
    from gella_jax import prompts
    from gella_jax.predict import as_categories
    from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC

    categories = as_categories(_names(words)) if words else COCO_PANOPTIC
    names = [category.spoken for category in categories]
    prompts.panoptic_caption(names)
    prompts.nouns_answer(names)
    return categories


def _names(words: Sequence[str]) -> Sequence[Category | str]:
    file = epath.Path(words[0])
    if len(words) > 1 or (file.suffix not in (".txt", ".json") and not file.is_file()):
        return words
    from grounding_jax.files.text import read_lines

    if file.suffix == ".json":
        return _read_categories(file)
    return [line.strip() for _, line in read_lines(file)]


def _read_categories(file: epath.Path) -> list[Category]:
    """The categories of COCO's json, or of a list of them."""
    from grounding_jax.data.coco import Categories
    from grounding_jax.data.coco import Category as Entry
    from grounding_jax.data.sources.panoptic_classes import Category
    from grounding_jax.files import records

    try:
        content = records.read(file, Categories | list[Entry])
    except ValueError as error:
        raise ValueError(f"{error}; it should be a list of categories like {_CATEGORY}, as COCO has them") from error
    listed = content if isinstance(content, list) else content.categories
    return [Category(c.id, c.name, bool(c.isthing)) for c in records.unique(listed, "category", file).values()]
