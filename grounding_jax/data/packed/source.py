"""Random access to packed datasets: ArrayRecord shards that hold the records of any source, pictures included.

A packed folder has a folder of shards for each dataset, in the layout of TFDS, and the file `CHECKSUMS`, which lists
the shards of those that are complete. `packing` writes it.
"""

import contextlib
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from etils import epath

from grounding_jax.data import files
from grounding_jax.data.sources.panoptic_classes import Category
from grounding_jax.data.sources.registry import RECORDS, AnyRecord
from grounding_jax.data.sources.semantic import LabelMapRecord, class_meanings
from grounding_jax.files.digests import of_file

CHECKSUMS = "checksums.json"
# The features of a shard are a record's files under the names of its attributes, and this one with everything else.
RECORD = "record"
KIND, CLASSES, CATEGORIES = "kind", "classes", "categories"  # in the metadata of a dataset
_MEANINGS = "meanings"  # of label maps; not stored with each record, since they follow from the classes

Progress = Callable[[str, int, int], None]  # is told what is worked on, how much is done, and of how much


def is_packed(root: epath.PathLike) -> bool:
    """Whether a folder is a packed one."""
    return (epath.Path(root) / CHECKSUMS).exists()


def read_checksums(root: epath.PathLike) -> dict[str, dict[str, str]]:
    """For each complete dataset, the SHA-256 (in hex) of its shards; these are in their order, named from `root`."""
    return files.read_json(epath.Path(root) / CHECKSUMS)


class PackedSource:
    """What the source of a dataset gives, from shards; pictures and label maps are `files.PackedFile`.

    Attributes:
        name: the dataset and its split.
        classes: the names of all classes, where the dataset has a list of them.
        categories: those of a panoptic dataset.
    """

    def __init__(self, root: epath.PathLike, name: str):
        """Opens the shards; no record is read.

        Args:
            root: a packed folder.
            name: a dataset that is packed there, or several splits of ReasonSeg joined like "ReasonSeg|train_val".

        Raises:
            FileNotFoundError: the dataset or one of its shards is not there.
            ValueError: a shard is damaged; mostly that is noticed only when a record is read.
        """
        import grain  # these two take seconds, and only packed folders need them
        import tensorflow_datasets as tfds

        root, packed = epath.Path(root), read_checksums(root)
        dataset, _, splits = name.partition("|")
        parts = [f"{dataset}|{split}" for split in splits.split("_")] if dataset == "ReasonSeg" else [name]
        for part in parts:
            if part not in packed:
                raise FileNotFoundError(f"'{part}' is not packed in {root}; {CHECKSUMS} there lists what is")
        self.name = name
        self._checksums = {root / shard: digest for part in parts for shard, digest in packed[part].items()}
        for path in self._checksums:
            if not path.exists():
                raise FileNotFoundError(f"a shard is missing: {path}; pack '{name}' again")
        info = tfds.builder_from_directory(next(iter(self._checksums)).parent).info
        self.classes = tuple(info.metadata[CLASSES])
        self.categories = tuple(Category(*values) for values in info.metadata.get(CATEGORIES, ()))
        self._kind = RECORDS[info.metadata[KIND]]
        self._types = typing.get_type_hints(self._kind)
        self._common = {_MEANINGS: class_meanings(dataset, self.classes)} if self._kind is LabelMapRecord else {}
        self._features = info.features
        with self._clear_errors():
            self._shards = grain.sources.ArrayRecordDataSource([str(path) for path in self._checksums])

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, index: int) -> AnyRecord:
        if not 0 <= index < len(self):
            raise IndexError(f"'{self.name}' has {len(self)} records, no record {index}")
        with self._clear_errors():
            packed = self._features.deserialize_example_np(self._shards[index])
        values = json.loads(packed.pop(RECORD))
        paths = {name: epath.Path(values.pop(name)) for name in packed}
        return self._kind(
            **{name: files.PackedFile(path, packed[name]) for name, path in paths.items()},
            **{name: _as_declared(self._types[name], value) for name, value in values.items()},
            **self._common,
        )

    def verify(self, progress: Progress) -> None:
        """Reads all shards.

        Raises:
            ValueError: one has another checksum than it had when it was written.
        """
        for done, (path, digest) in enumerate(self._checksums.items(), start=1):
            if of_file(path) != digest:
                raise ValueError(f"a shard is damaged: {path}; remove its folder and pack '{self.name}' again")
            progress(f"checksums of {self.name}", done, len(self._checksums))

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # ArrayRecord's, which checks what it reads
            reason = str(error) or "it is cut off"
            raise ValueError(f"a shard of '{self.name}' is damaged: {reason}") from error


def pack_record(record: AnyRecord, root: epath.PathLike) -> dict[str, bytes | str]:
    """The features of a record: its files as they are, and everything else, with the files' names, as JSON.

    Args:
        record: from a source over folders.
        root: of these folders.

    Raises:
        FileNotFoundError: a file of the record is missing.
    """
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    values.pop(_MEANINGS, None)
    paths = {name: value for name, value in values.items() if isinstance(value, epath.Path)}
    values |= {name: str(path.relative_to(epath.Path(root))) for name, path in paths.items()}
    packed = {name: files.read_bytes(path) for name, path in paths.items()}
    return {**packed, RECORD: json.dumps(values, ensure_ascii=False, separators=(",", ":"))}


def _as_declared(kind: Any, value: Any) -> Any:
    """A value from JSON, which knows lists only, with tuples where the type of a field has them."""
    first, *_ = (*typing.get_args(kind), None)
    if typing.get_origin(kind) is tuple:
        return tuple(_as_declared(first, item) for item in value)
    if isinstance(kind, types.UnionType) and value is not None:
        return _as_declared(first, value)
    return value
