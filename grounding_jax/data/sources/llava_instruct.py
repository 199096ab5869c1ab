"""Random access to LLaVA-Instruct-150K: conversations about pictures of COCO, without masks."""

import dataclasses
from typing import Any

from etils import epath

from grounding_jax.data import files

LLAVA_DATASETS = ("llava_instruct_150k",)
_ROLES = ("human", "gpt")


@dataclasses.dataclass(frozen=True)
class VqaRecord:
    """One conversation about a picture.

    Attributes:
        image: the picture file.
        turns: dicts {"from": "human" or "gpt", "value": text} as in the file, where "<image>" is in one of the texts.
    """

    image: files.File
    turns: list[dict[str, str]]


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
        file = epath.Path(root) / "llava_dataset" / f"{name}.json"
        self._items = files.read_json(file)
        if not isinstance(self._items, list):
            raise ValueError(f"{file} does not hold a list of conversations")
        for place, item in enumerate(self._items):
            if not _is_conversation(item):
                turn = "{'from': 'human' or 'gpt', 'value': text}"
                raise ValueError(f"{file}: item {place} must have an 'image' and 'conversations' made of {turn}")

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> VqaRecord:
        item = self._items[index]
        return VqaRecord(self._pictures / item["image"], item["conversations"])


def _is_conversation(item: Any) -> bool:
    """Whether an item of the file has a picture and turns, and everything that is used of them."""
    try:
        turns = [(turn["from"], turn["value"]) for turn in item["conversations"]]
        return (
            isinstance(item["image"], str)
            and bool(turns)
            and all(role in _ROLES and isinstance(text, str) for role, text in turns)
        )
    except (KeyError, TypeError):
        return False
