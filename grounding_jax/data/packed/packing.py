"""Packs datasets into ArrayRecord shards, which `packed` reads: a few large files in place of very many small ones."""

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.packed.source import (
    CATEGORIES,
    CHECKSUMS,
    CLASSES,
    KIND,
    RECORD,
    Progress,
    dataset_folder,
    is_packed,
    pack_record,
    read_checksums,
)
from grounding_jax.data.sources.instructions import INSTRUCTIONS
from grounding_jax.data.sources.registry import ENTITY_DATASETS, KNOWN_DATASETS, Source, listed
from grounding_jax.files.digests import of_file
from grounding_jax.files.writing import write_json

_VERSION = tfds.core.Version("1.0.0")
_SPLIT = "records"
_SHARD_RECORDS = 1024  # some 150 MB of photographs


@dataclasses.dataclass(frozen=True)
class Packed:
    """How the packing of a dataset ended.

    Attributes:
        name: the dataset.
        num_shards: number of its shards.
        problem: why it is not packed; None if it is.
    """

    name: str
    num_shards: int = 0
    problem: str | None = None


def prepare(
    root: epath.PathLike, out: epath.PathLike, names: Sequence[str], workers: int, progress: Progress
) -> Iterator[Packed]:
    """Packs datasets, several at once; those that are complete are left as they are, interrupted ones go on.

    Args:
        root: the folder of all datasets, see `datasets.open_dataset`.
        out: the packed folder, local; once written, it may be copied to gs:// and read there.
        names: names of `registry.KNOWN_DATASETS` and `ENTITY_DATASETS`, and of files of instructions.
        workers: number of datasets packed at the same time.
        progress: is told of each dataset's records.

    Returns:
        How each dataset ended, in the order in which they did.

    Raises:
        ValueError: a name is unknown, `root` is packed itself, or `out` is `root` or not local.
    """
    for name in names:
        if name not in (*KNOWN_DATASETS, *ENTITY_DATASETS) and not name.startswith(INSTRUCTIONS):
            raise ValueError(f"unknown dataset '{name}'; there are {listed((*KNOWN_DATASETS, *ENTITY_DATASETS))}")
    if str(out).startswith("gs://"):
        raise ValueError(f"shards can't be written to {out}: choose a local folder and copy it there, to be read there")
    if is_packed(root):
        raise ValueError(f"{root} is packed already")
    out = epath.Path(out)
    if out.resolve() == epath.Path(root).resolve():
        raise ValueError(f"{out} has the datasets themselves: choose another folder for the shards")
    out.mkdir(parents=True, exist_ok=True)
    complete = read_checksums(out) if is_packed(out) else {}
    for name in names:
        if name in complete and not all((out / shard).exists() for shard in complete[name]):
            complete.pop(name)
            dataset_folder(out, name).rmtree(missing_ok=True)  # without one of its shards, it starts again
    _write_checksums(out, complete)
    yield from (Packed(name, len(complete[name])) for name in names if name in complete)
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pack = functools.partial(_pack, root, out, progress=progress, stop=stop)
        jobs = {pool.submit(pack, name): name for name in dict.fromkeys(names) if name not in complete}
        try:
            for job in concurrent.futures.as_completed(jobs):
                name, error = jobs[job], job.exception()
                if isinstance(error, OSError | ValueError):
                    yield Packed(name, problem=str(error))
                    continue
                complete[name] = job.result()
                _write_checksums(out, complete)
                yield Packed(name, len(complete[name]))
        finally:
            stop.set()  # where it ends early, such as by Ctrl-C, nobody waits for the others
            pool.shutdown(cancel_futures=True)


def _pack(
    root: epath.PathLike, out: epath.Path, name: str, progress: Progress, stop: threading.Event
) -> dict[str, str]:
    """Writes those shards of a dataset that are not there yet; gives the checksums of all, see `read_checksums`.

    Raises:
        FileNotFoundError, ValueError: a file of the dataset is missing or damaged.
        InterruptedError: `stop` is set.
    """
    source = open_dataset(root, name)
    if not len(source):
        raise ValueError(f"the dataset '{name}' has no records")

    def example(index: int) -> dict[str, bytes | str]:
        if stop.is_set():
            raise InterruptedError(f"the packing of '{name}' was interrupted")
        progress(name, index + 1, len(source))
        return pack_record(source[index], root)

    info = _dataset_info(out, source, pack_record(source[0], root))
    # A builder's `download_and_prepare` holds the whole dataset in memory if the order is to stay; this one streams.
    writer = tfds.core.SequentialWriter(info, _SHARD_RECORDS, overwrite=False, file_format="array_record")
    writer.initialize_splits([_SPLIT], fail_if_exists=False)
    for start in range(info.splits[_SPLIT].num_examples, len(source), _SHARD_RECORDS):
        shard = range(start, min(start + _SHARD_RECORDS, len(source)))
        writer.add_examples({_SPLIT: map(example, shard)})
    writer.close_all()
    return {str(path.relative_to(out)): of_file(path) for path in map(epath.Path, info.splits[_SPLIT].filepaths)}


def _dataset_info(out: epath.Path, source: Source, features: Iterable[str]) -> tfds.core.DatasetInfo:
    """What TFDS has to know of a dataset, whose folder is made."""
    folder = dataset_folder(out, source.name)
    place = folder / str(_VERSION)
    place.mkdir(parents=True, exist_ok=True)
    kinds = {name: tfds.features.Text() if name == RECORD else tfds.features.Scalar(np.object_) for name in features}
    return tfds.core.DatasetInfo(
        builder=DatasetIdentity(folder.name, _VERSION, str(place), __name__),
        description=f"{source.name}: the files of each record, and what else is known of it as JSON.",
        features=tfds.features.FeaturesDict(kinds),
        metadata=tfds.core.MetadataDict(
            {
                KIND: type(source[0]).__name__,
                CLASSES: list(getattr(source, "classes", ())),
                CATEGORIES: [list(category) for category in getattr(source, "categories", ())],
            }
        ),
        disable_shuffling=True,
    )


def _write_checksums(out: epath.Path, complete: dict[str, dict[str, str]]) -> None:
    write_json(out / CHECKSUMS, complete, indent=1)
