"""What the shapes of a checkpoint can't tell: the `--sizes` file, and its keys for the parts that both systems have."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from etils import epath

from grounding_jax.files import configs
from grounding_jax.weights.readers.json_reader import read_json
from grounding_jax.weights.tensors import CheckpointError

T = TypeVar("T")
# Keys of the file: (part of the config, its field).
Keys = Mapping[str, tuple[str, str]]
LLAMA: Keys = {
    "hidden": ("llama", "width"),
    "inter": ("llama", "hidden"),
    "layers": ("llama", "layers"),
    "heads": ("llama", "heads"),
    "kv_heads": ("llama", "kv_heads"),
    "rms_eps": ("llama", "eps"),
    "rope_theta": ("llama", "rope_theta"),
    "max_positions": ("llama", "max_positions"),
    "lora_r": ("llama", "lora_rank"),
    "lora_alpha": ("llama", "lora_alpha"),
}
CLIP: Keys = {
    "clip_img": ("clip", "image_size"),
    "clip_patch": ("clip", "patch_size"),
    "clip_hidden": ("clip", "width"),
    "clip_inter": ("clip", "hidden"),
    "clip_layers": ("clip", "layers"),
    "clip_heads": ("clip", "heads"),
    "clip_ln_eps": ("clip", "eps"),
    "clip_act": ("clip", "activation"),
}

# What shapes can't tell, by part and field of the config, and the names in a public config.json that do.
Untold = Mapping[str, Mapping[str, tuple[str, ...]]]
UNTOLD: Untold = {
    "llama": {
        "eps": ("rms_norm_eps",),
        "rope_theta": ("rope_theta", "rope_parameters"),
        "max_positions": ("max_position_embeddings",),
        "lora_alpha": (),
    },
    "clip": {"heads": ("num_attention_heads",), "eps": ("layer_norm_eps",), "activation": ("hidden_act",)},
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Config fields that the user gave, by part, and the keys of the file that set none."""

    fields: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()

    def __getitem__(self, part: str) -> dict[str, Any]:
        """The fields of a part of the config; none where the file has none."""
        return dict(self.fields.get(part, {}))


def read_sizes(path: epath.PathLike | None, keys: Keys, config: type) -> Sizes:
    """Reads a `--sizes` file; None gives no sizes. `config` is that of the system, and has those of the parts.

    Keys that set nothing (a file may also describe ids, losses, versions) are returned in `unused`, so that
    the caller can say so. Raises FileNotFoundError, or CheckpointError for a value of another type, and for a key that
    looks like a misspelt one.
    """
    if path is None:
        return Sizes()
    fields: dict[str, dict[str, Any]] = collections.defaultdict(dict)
    unused = []
    for key, value in read_json(path).items():
        if key not in keys:
            _refuse_typo(key, keys, path)
            unused.append(key)
            continue
        part, field = keys[key]
        with about(path):
            fields[part][field] = configs.convert(configs.part_of(config, part), field, value, key)
    return Sizes(fields, tuple(unused))


def assumed(
    config: Any, keys: Keys, untold: Untold, given: Sizes, public: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """A line of an import's report about the sizes that nobody told; none where all are known.

    Args:
        config: config of the system, whose own fields are those of the part that it does not have.
        keys: keys of the `--sizes` file.
        untold: sizes that shapes can't tell.
        given: content of that file.
        public: the config.json of each part, as far as there is one.
    """
    values = {}
    for key, (part, field) in keys.items():
        told = field in given[part] or any(name in public.get(part, {}) for name in untold.get(part, {}).get(field, ()))
        idle = field == "lora_alpha" and not config.llama.lora_rank
        if field in untold.get(part, {}) and not told and not idle:
            values[part, field] = f"{key} {getattr(getattr(config, part, config), field)}"
    return [f"assumed, and set by --sizes: {', '.join(values.values())}"] if values else []


def fitted(config: type[T], seen: Mapping[str, Any], given: Mapping[str, Any]) -> T:
    """The config of a part, from the sizes `seen` in its weights and fields that are `given`.

    Raises:
        ValueError: a field that is given contradicts the weights, or sizes don't go together.
    """
    wrong = [
        f"{name} is {given[name]}, the weights have {size}"
        for name, size in seen.items()
        if given.get(name, size) != size
    ]
    if wrong:
        raise ValueError(f"sizes that contradict the weights: {'; '.join(wrong)}")
    return config(**{**given, **seen})


def check_public(public: Mapping[str, Any], seen: Mapping[str, int], where: str) -> None:
    """Raises CheckpointError where a public config.json contradicts sizes seen in the weights."""
    wrong = [
        f"{name} {public[name]} (weights: {size})" for name, size in seen.items() if public.get(name, size) != size
    ]
    if wrong:
        raise CheckpointError(f"{where}: belongs to another model than the weights, it says {', '.join(wrong)}")


def read_fields(public: Mapping[str, Any], names: Mapping[str, str], config: type, where: str) -> dict[str, Any]:
    """Fields of a config from a public config.json, where they have other names; CheckpointError for another type."""
    with about(where):
        return {
            field: configs.convert(config, field, public[name], name) for field, name in names.items() if name in public
        }


def read_object(public: Mapping[str, Any], name: str, where: str) -> dict[str, Any]:
    """An object inside a public config.json, {} where there is none; CheckpointError for anything else."""
    found = public.get(name) or {}
    if not isinstance(found, dict):
        raise CheckpointError(f"{where}: {name} is a JSON {type(found).__name__}, should be an object")
    return found


@contextlib.contextmanager
def about(where: object) -> Iterator[None]:
    """Makes of errors about leaves and sizes those of a checkpoint, which name it."""
    try:
        yield
    except CheckpointError:
        raise
    except KeyError as error:
        raise CheckpointError(f"{where}: has no {error.args[0]}") from error
    except (ArithmeticError, IndexError, ValueError) as error:
        raise CheckpointError(f"{where}: {error}") from error


def _refuse_typo(key: str, keys: Keys, path: epath.PathLike) -> None:
    close = difflib.get_close_matches(key, keys, n=1, cutoff=0.9)
    if close:
        raise CheckpointError(f"{path}: unknown key {key}, did you mean {close[0]}?")
