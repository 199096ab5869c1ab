"""What is read of COCO's files, which most datasets imitate."""

from typing import Annotated, Any

import msgspec

from grounding_jax.files import records
from grounding_jax.files.masks import Segmentation

Length = Annotated[int, msgspec.Meta(ge=1)]
# Some files have their numbers as texts.
Number = int | Annotated[str, msgspec.Meta(pattern="^[0-9]+$")]


class Image(msgspec.Struct, frozen=True, gc=False):
    """An entry of "images"."""

    id: int
    file_name: str
    height: Length
    width: Length

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.height, self.width


class Category(msgspec.Struct, frozen=True):
    """An entry of "categories" of a panoptic json."""

    id: int
    name: str
    isthing: bool | int


class Categories(msgspec.Struct):
    """A json of which only the categories matter."""

    categories: list[Category]


class Instance(msgspec.Struct, frozen=True, gc=False):
    """An entry of "annotations" of which only the mask matters; that is decoded where it is used."""

    id: int
    segmentation: msgspec.Raw


def segmentation(raw: msgspec.Raw, ann_id: int, file: Any) -> Segmentation:
    """The mask of an annotation of a file; raises ValueError if it is no segmentation."""
    return records.decode(raw, Segmentation, f"{file}, the mask of annotation {ann_id}")
