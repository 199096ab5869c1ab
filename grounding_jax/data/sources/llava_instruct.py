"""Random access to LLaVA-Instruct-150K: conversations about pictures of COCO, without masks."""

import dataclasses
from typing import Annotated, Literal, TypedDict

import msgspec
from etils import epath

from grounding_jax.files import paths, records, regular

LLAVA_DATASETS = ("llava_instruct_150k",)

Turn = TypedDict("Turn", {"from": Literal["human", "gpt"], "value": str})


@dataclasses.dataclass(frozen=True)
class VqaRecord:
    """One conversation about a picture.

    Attributes:
        image: the picture file.
        turns: dicts {"from": "human" or "gpt", "value": text} as in the file, where "<image>" is in one of the texts.
    """

    image: regular.File
    turns: list[Turn]


class _Item(msgspec.Struct):
    image: str
    conversations: Annotated[list[Turn], msgspec.Meta(min_length=1)]


class LlavaInstructSource:
    """One `VqaRecord` per conversation, in the order of the file; several may be about one picture."""

    def __init__(self, root: epath.PathLike, name: str):
        """Reads all conversations; pictures are not opened.

        Args:
            root: the folder that holds llava_dataset/ and coco/ (spec gsva g).
            name: one of `LLAVA_DATASETS`.

        Raises:
            FileNotFoundError: the file of conversations is missing.
            ValueError: the name is unknown, or the file is damaged.
        """
        if name not in LLAVA_DATASETS:
            raise ValueError(f"unknown dataset '{name}'; there are {', '.join(LLAVA_DATASETS)}")
        self.name = name
        self._pictures = epath.Path(root) / "coco" / "train2017"
        self._file = epath.Path(root) / "llava_dataset" / f"{name}.json"
        self._items = records.read(self._file, list[_Item])

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> VqaRecord:
        item = self._items[index]
        return VqaRecord(paths.below(self._pictures, item.image, self._file), item.conversations)
