"""Opens checkpoints: a torch or safetensors file, shards with an index, or a folder with either."""

from __future__ import annotations

from etils import epath

from grounding_jax.weights.readers.json_reader import read_json
from grounding_jax.weights.readers.safetensors_reader import read_safetensors
from grounding_jax.weights.readers.torch_reader import read_torch
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, Weights

_TORCH_SUFFIXES = (".bin", ".pth", ".pt", ".pkl", ".ckpt")
_SHARD_SUFFIXES = (".safetensors", *_TORCH_SUFFIXES)
# In the order in which transformers looks for them.
_FOLDER_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
# What else programs leave: files of such a folder, and what makes weights of it.
_CONVERTERS = {
    "zero_to_fp32.py": "DeepSpeed's shards; put them together with its `python zero_to_fp32.py FOLDER OUT.bin`",
    "*_model_states.pt": "DeepSpeed's shards; put them together with its `python zero_to_fp32.py FOLDER OUT.bin`",
    "*.distcp": "shards of torch.distributed.checkpoint; put them together with its "
    "`python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER OUT.bin`",
    "adapter_model.*": "only the adapters of PEFT; fold them into their model with its `merge_and_unload()`",
}


def open_weights(path: epath.PathLike) -> Weights:
    """The tensors of a checkpoint by name, none of them read yet.

    `path` is a `.safetensors`, `.bin`, `.pth`, `.pt`, `.ckpt` or (detectron2's) `.pkl` file, an `.index.json` with its
    shards beside it, or a folder with one of these under its public name, of several that which transformers would
    read. Names are those of the file. Raises FileNotFoundError or CheckpointError.
    """
    path = epath.Path(path)
    report: tuple[str, ...] = ()
    if path.is_dir():
        path, report = _file_of_folder(path)
    weights = _open_file(path)
    if not weights:
        raise CheckpointError(f"{path}: holds no tensors")
    return Weights(weights, report + weights.report)


def _file_of_folder(folder: epath.Path) -> tuple[epath.Path, tuple[str, ...]]:
    """The file to read, and in words which, where there are others.

    A folder under a file's name has the shards of that file.
    """
    inside = [folder / name for name in _FOLDER_FILES if (folder / name).is_file()]
    inside += [
        folder / shards / name
        for shards in _FOLDER_FILES
        for name in _FOLDER_FILES
        if (folder / shards).is_dir() and (folder / shards / name).is_file()
    ]
    if inside:
        others = ", ".join(str(file.relative_to(folder)) for file in inside[1:])
        left_out = f"; left out: {others}, as transformers does" if others else ""
        plain = inside[0].parent == folder and not others
        return inside[0], () if plain else (f"read: {inside[0]}{left_out}",)
    for pattern, remedy in _CONVERTERS.items():
        if any(folder.glob(pattern)):
            raise CheckpointError(f"{folder}: has {remedy}")
    raise FileNotFoundError(f"{folder}: no weights in this folder; looked for {', '.join(_FOLDER_FILES)}")


def _open_file(path: epath.Path) -> Weights:
    if path.name.endswith(".index.json"):
        return _open_sharded(path)
    if path.suffix == ".safetensors":
        return Weights(read_safetensors(path))
    if path.suffix in _TORCH_SUFFIXES:
        return read_torch(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    raise CheckpointError(f"{path}: not a checkpoint file; expected {', '.join(_SHARD_SUFFIXES)} or .index.json")


def _open_sharded(index: epath.Path) -> Weights:
    weight_map, folder = read_json(index).get("weight_map"), index.parent
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map from names to files")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if epath.Path(shard).name != shard or not shard.endswith(_SHARD_SUFFIXES):
            raise CheckpointError(f"{index}: {shard[:200]!r} is not the name of a shard beside the index")
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise FileNotFoundError(f"{index}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing)}")
    tensors: dict[str, LazyTensor] = {}
    report: list[str] = []
    for shard in shards:
        opened = _open_file(folder / shard)
        promised = {key for key, file in weight_map.items() if file == shard}
        if promised - opened.keys():
            absent = ", ".join(sorted(promised - opened.keys()))
            raise CheckpointError(f"{folder / shard}: the index promises these tensors, the file lacks them: {absent}")
        twice = sorted(tensors.keys() & opened.keys())
        if twice:
            raise CheckpointError(f"{folder / shard}: has tensors that another shard has, too: {', '.join(twice)}")
        tensors |= opened
        report += opened.report
    return Weights(tensors, report)
