"""Random access to pictures and expressions of one's own, which a jsonl file lists (docs/data.md)."""

import warnings
from typing import Annotated

import msgspec
import numpy as np
from etils import epath

from grounding_jax.data.sources.refer import Record
from grounding_jax.files import masks, pictures, records
from grounding_jax.files.id_maps import open_id_map
from grounding_jax.files.masks import Segmentation

# "jsonl|train.jsonl" is the dataset that train.jsonl lists.
OWN_DATA = "jsonl|"
_LINE = '{"image": FILE, "expressions": [{"text": TEXT, "masks": [COCO segmentation or PNG file, ...]}, ...]}'


class _Expression(msgspec.Struct, forbid_unknown_fields=True):
    text: Annotated[str, msgspec.Meta(pattern=r"\S")]
    masks: list[str | Segmentation]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    image: Annotated[str, msgspec.Meta(min_length=1)]
    expressions: Annotated[list[_Expression], msgspec.Meta(min_length=1)]


class OwnSource:
    """One `refer.Record` per line, in the order of the file; its number is that of the line, counted from 1."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads the list; pictures and masks are not opened.

        Args:
            root: the folder that the file's name is relative to.
            name: "jsonl|" and the name of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: a line is not like `_LINE`, or there is none.
        """
        self.name = name
        self._file = epath.Path(root) / name.removeprefix(OWN_DATA)
        self._lines = records.read_lines(self._file, _Line, _LINE)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Record:
        number, line = self._lines[index]
        image = self._file.parent / line.image
        try:
            size = pictures.picture_size(image)
            return Record(
                image=image,
                size=size,
                raw_expressions=tuple(expression.text for expression in line.expressions),
                targets=tuple(
                    tuple(self._segmentation(expression.text, mask, size) for mask in expression.masks)
                    for expression in line.expressions
                ),
                image_id=number,
                ref_ids=tuple(range(len(line.expressions))),
            )
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file}, line {number}: {error}") from error

    def _segmentation(self, text: str, mask: str | Segmentation, size: tuple[int, int]) -> Segmentation:
        """A mask of an expression as COCO has it; in a PNG, whatever is not 0 belongs to it.

        Raises ValueError if it has no pixel: what is not in the picture has no masks.
        """
        if isinstance(mask, str):
            label_map = open_id_map(self._file.parent / mask)
            if label_map.shape != size:
                sizes = [" x ".join(map(str, shape)) for shape in (label_map.shape, size)]
                raise ValueError(f"the mask {mask} of '{text}' has {sizes[0]} pixels, its picture {sizes[1]}")
            segmentation = masks.encode_mask(label_map != 0)
        else:
            segmentation = mask
        try:
            area = masks.mask_area(segmentation, size)
        except ValueError as error:
            raise ValueError(f"a mask of '{text}' is damaged: {error}") from error
        if not area:
            meaning = "is 0 everywhere" if isinstance(mask, str) else _looks_like(mask, size)
            raise ValueError(f"a mask of '{text}' has no pixel: it {meaning}; what is not there has the masks []")
        if area == size[0] * size[1]:
            warnings.warn(
                f"{self._file}: a mask of '{text}' covers the whole picture {size[1]} x {size[0]}", stacklevel=2
            )
        return segmentation


def _looks_like(segmentation: Segmentation, size: tuple[int, int]) -> str:
    """What was meant by a mask without a pixel, as far as it can be told."""
    if not segmentation:
        return "is an empty list"
    if isinstance(segmentation, dict) or isinstance(segmentation[0], dict):
        return "has run lengths of 0 only"
    lengths = [len(polygon) for polygon in segmentation]
    if set(lengths) == {2} and len(lengths) > 2:
        return "has points as pairs, where a polygon is one list [x0, y0, x1, y1, ...]"
    polygon = segmentation[0]
    if len(polygon) == 4:
        return "looks like a box, where a polygon [x0, y0, x1, y1, x2, y2, ...] belongs"
    if len(polygon) % 2:
        return f"has an odd count of numbers, {len(polygon)}"
    if len(polygon) < 6:
        return f"has a polygon of {len(polygon) // 2} points, of three at least"
    if np.min(polygon) >= 0 and np.max(polygon) <= 1:
        return f"looks like fractions of the picture, where pixels of {size[1]} x {size[0]} belong"
    return f"lies outside of the picture of {size[1]} x {size[0]} pixels, or has no inside"
