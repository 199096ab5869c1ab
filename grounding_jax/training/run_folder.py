"""What lies where in the folder of a training run, and what it is a run of: data that is read and never executed."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, TypeVar

from etils import epath

from grounding_jax.files import records
from grounding_jax.files.writing import write_json
from grounding_jax.sharding.hosts import is_first
from grounding_jax.weights.folder import CONFIG_FILE

T = TypeVar("T")

IDENTITY_FILE = "run.json"  # what this is a run of
LOG_FILE = "log.jsonl"
VALIDATION_FILE = "validation.jsonl"
PICTURES = "pictures"  # predictions on examples of the validation
PROFILE = "profile"  # a trace of some updates
BOARD_FOLDER = "tensorboard"
BAD_STEPS_FILE = "bad_steps.jsonl"
CHECKPOINTS = "checkpoints"
RESULT = "model"  # what was trained, as a model folder
BEST = "best"  # what stands for a step in RUN@best
BROKEN = "broken_checkpoints"  # where damaged ones are put aside


def absolute(folder: epath.PathLike) -> epath.Path:
    """A folder as Orbax takes it, which refuses relative paths, and as it is found from any other folder."""
    return epath.Path(folder if "://" in str(folder) else os.path.abspath(folder))


def step_of_run(name: epath.PathLike) -> tuple[epath.Path, int | None] | None:
    """The run folder and the step (None: the best) that ``RUN@STEP`` or ``RUN@best`` means; None if it is neither."""
    run, at, step = str(name).rpartition("@")
    if not (at and (step.isdecimal() or step == BEST) and (epath.Path(run) / IDENTITY_FILE).exists()):
        return None
    return epath.Path(run), None if step == BEST else int(step)


def find_folder(name: epath.PathLike, shipped: epath.Path | None = None) -> epath.Path:
    """The model folder that a name means: that of a finished run, a shipped model's, or the path itself.

    Args:
        name: a path, or the bare name of a shipped model.
        shipped: the folder that holds the shipped models; None where there are none.

    Raises:
        FileNotFoundError: a run has not finished, or no model of this name is shipped.
    """
    path = epath.Path(name)
    if (path / RESULT / CONFIG_FILE).exists():
        return path / RESULT
    if (path / IDENTITY_FILE).exists():
        raise FileNotFoundError(f"{path}: this run has not finished; name one of its steps, as in {path}@STEP")
    if shipped is None or path.exists() or str(name) != path.name:
        return path
    names = sorted(folder.name for folder in shipped.iterdir() if (folder / CONFIG_FILE).exists())
    if path.name not in names:
        raise FileNotFoundError(f"{name}: no such model folder; shipped with the package: {', '.join(names) or 'none'}")
    return shipped / path.name


def claim(run: epath.Path, identity: Mapping) -> None:
    """Writes down what a run folder is a run of, or holds it against what is written there.

    What the folder does not say yet, because an older version began the run, is added; and where the models that it
    starts from lie now: they are told by their digests.

    Args:
        run: the run folder.
        identity: a dict that JSON can keep; what may differ between two calls does not belong in it.

    Raises:
        ValueError: the folder holds another run; names what differs.
    """
    identity = records.decode(records.to_json(identity), dict[str, Any], str(run))
    written = read_identity(run) if (run / IDENTITY_FILE).exists() else {}
    before, now = comparable(written), comparable(identity)
    for key in sorted(before):
        if before[key] != now.get(key):
            raise ValueError(
                f"{run} holds a run with {key} = {before[key]}, this one has {now.get(key)}: continue that one with "
                "its own options, or give this one another folder"
            )
    if is_first() and written != identity:
        write_json(run / IDENTITY_FILE, identity, indent=2)


def comparable(identity: Mapping) -> dict:
    """An identity in which every field of the recipe stands by itself, and of the starts only their digests in order.

    So a model that was moved is still the same start.
    """
    fields, recipe, starts = dict(identity), identity.get("recipe"), identity.get("starts")
    if isinstance(starts, dict):
        fields["starts"] = list(starts.values())
    if isinstance(recipe, dict):
        del fields["recipe"]
        fields.update({f"recipe.{name}": value for name, value in recipe.items()})
    return fields


def read_identity(run: epath.Path) -> dict:
    """What `claim` wrote.

    Raises:
        FileNotFoundError: the folder is no run folder.
        ValueError: the file is damaged.
    """
    file = run / IDENTITY_FILE
    if not file.exists():
        raise FileNotFoundError(f"{run}: is no run folder: it has no {IDENTITY_FILE}")
    return records.read(file, dict[str, Any])


def decode(cls: type[T], values: object, where: str) -> T:
    """A dataclass, or another type, from what JSON gave.

    Args:
        cls: the type; its fields may be dataclasses, tuples, unions and literals.
        values: values of the fields; those with a default may be missing.
        where: file and field, for the error.

    Raises:
        ValueError: names a field that is unknown or missing, or whose value has another type.
    """
    made = records.convert(values, cls, where)
    unknown = _unknown(made, values, "$")
    if unknown:
        raise ValueError(f"{where}: unknown fields {', '.join(unknown)}; a newer version may have written it")
    return made


def _unknown(made: object, values: Any, path: str) -> list[str]:
    """The paths of values that found no field of a dataclass."""
    if isinstance(made, list | tuple):
        pairs = enumerate(zip(made, values, strict=True))
        return [wrong for k, (one, value) in pairs for wrong in _unknown(one, value, f"{path}[{k}]")]
    if not dataclasses.is_dataclass(made):
        return []
    names = {field.name for field in dataclasses.fields(made)}
    inside = (_unknown(getattr(made, name), values[name], f"{path}.{name}") for name in values if name in names)
    return [*(f"{path}.{name}" for name in values if name not in names), *(wrong for part in inside for wrong in part)]


def identity_of(data: object, exempt: tuple[str, ...]) -> dict:
    """The fields of a dataclass as a dict for `claim`, without those that two calls may change."""
    return {name: value for name, value in dataclasses.asdict(data).items() if name not in exempt}
