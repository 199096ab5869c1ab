"""Random access to pictures and expressions of one's own, which a jsonl file lists (docs/data.md)."""

import json
from typing import Any

from etils import epath

from grounding_jax.data import files, masks, pictures
from grounding_jax.data.sources.refer import Record

# "jsonl|train.jsonl" is the dataset that train.jsonl lists.
OWN_DATA = "jsonl|"
_LINE = '{"image": FILE, "expressions": [{"text": TEXT, "masks": [COCO segmentation or PNG file, ...]}, ...]}'


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
        lines = files.read_bytes(self._file).decode("utf-8", "replace").splitlines()
        self._lines = [(number, self._parsed(number, line)) for number, line in enumerate(lines, 1) if line.strip()]
        if not self._lines:
            raise ValueError(f"{self._file} is empty: it needs lines like {_LINE}")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Record:
        number, line = self._lines[index]
        image, expressions = self._file.parent / line["image"], line["expressions"]
        try:
            size = pictures.picture_size(image)
            record = Record(
                image=image,
                size=size,
                raw_expressions=tuple(expression["text"] for expression in expressions),
                targets=tuple(
                    tuple(self._segmentation(mask, size) for mask in expression["masks"]) for expression in expressions
                ),
                image_id=number,
                ref_ids=tuple(range(len(expressions))),
            )
            _ = record.rejected  # looks at all masks while the line is known
        except (OSError, ValueError) as error:
            raise ValueError(f"{self._file}, line {number}: {error}") from error
        return record

    def _parsed(self, number: int, line: str) -> dict[str, Any]:
        """A line, checked to have what is used of it."""
        try:
            parsed = json.loads(line)
        except ValueError:
            parsed = None
        if not _is_entry(parsed):
            raise ValueError(f"{self._file}, line {number}: should be like {_LINE}")
        return parsed

    def _segmentation(self, mask: str | list | dict, size: tuple[int, int]) -> list | dict:
        """A mask of a line as COCO has it; in a PNG, whatever is not 0 belongs to it."""
        if not isinstance(mask, str):
            return mask
        label_map = pictures.open_label_map(self._file.parent / mask)
        if label_map.shape != size:
            sizes = [" x ".join(map(str, shape)) for shape in (label_map.shape, size)]
            raise ValueError(f"the mask {mask} has {sizes[0]} pixels, its picture {sizes[1]}")
        return masks.encode_mask(label_map != 0)


def _is_entry(line: Any) -> bool:
    """Whether a line is like `_LINE`; what is in the masks is looked at when they are used."""
    try:
        entries = [(expression["text"], expression["masks"]) for expression in line["expressions"]]
        return (
            isinstance(line["image"], str)
            and bool(entries)
            and all(isinstance(text, str) and text.strip() != "" and isinstance(of, list) for text, of in entries)
        )
    except (KeyError, TypeError):
        return False
