"""An experiment: a task, how it is trained, and which earlier runs it starts from. `gsva train CONFIG` runs one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Sequence
from typing import Annotated

import jax
import numpy as np
import tyro
from etils import epath

import grounding_jax
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.sharding import hosts
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training import checkpoints
from grounding_jax.training.loop import Task, absolute, open_run, train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import RESULT
from grounding_jax.training.state import check_fits, combine
from grounding_jax.weights import folder
from gsva_jax.config import GsvaConfig
from gsva_jax.mixture import Family
from gsva_jax.predict import ASSETS, find_checkpoint
from gsva_jax.train import Recipe, Training

CONFIG_COPY = "config.py"  # in a run folder
MAY_CHANGE = ("validation",)  # of a recipe, between two calls of one run
HELPERS = "helpers"  # parameters that only lessons have

# Where configs lie: beside the packages in a checkout, inside them in a wheel.
CONFIG_FOLDERS = (
    epath.Path(grounding_jax.__file__).parent.parent / "configs",
    epath.Path(grounding_jax.__file__).parent / "configs",
)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config file returns.

    Attributes:
        name: of the run folder.
        task: what is trained; a `Recipe` becomes one with the model that ``--init`` names.
        options: how.
        starts_from: names of runs beside this one whose parameters are laid over the random ones, in this order.
        result_dtype: of the trained model folder.
    """

    name: str
    task: Task | Recipe
    options: TrainOptions
    starts_from: tuple[str, ...] = ()
    result_dtype: str = "float32"


def find_config(name: epath.PathLike) -> epath.Path:
    """The file of a config: a path, or the bare name of one of ours.

    Raises:
        FileNotFoundError: there is none; lists ours.
    """
    places = [epath.Path(name), *(place / f"{name}.py" for place in CONFIG_FOLDERS)]
    for path in places:
        if path.is_file():
            return path
    known = sorted({path.stem for place in CONFIG_FOLDERS if place.is_dir() for path in place.glob("*.py")})
    raise FileNotFoundError(f"{name}: no such config; give a path to a Python file, or one of {', '.join(known)}")


def load_config(name: epath.PathLike) -> Experiment:
    """Runs the ``get_config`` of a config file, which is found by `find_config`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it has no ``get_config``.
    """
    path = find_config(name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"{path}: has no get_config(), which must return an Experiment")
    return module.get_config()


def run(
    config: epath.PathLike,
    runs: epath.PathLike = "runs",
    init: epath.PathLike | None = None,
    overrides: Sequence[str] = (),
    debug: bool = False,
) -> epath.Path:
    """Trains an experiment, from where it stopped if it was started before.

    Args:
        config: path or name of a config file.
        runs: folder of all runs; this one goes to ``runs/<name>``, its result to ``runs/<name>/model``.
        init: a model folder to start from; its parameters come over those of the config's own starting points.
        overrides: changes of the options in the form ``--learning-rate 1e-3``.
        debug: a few steps on small things instead, see `debugged`.

    Returns:
        The folder of the trained model.

    Raises:
        FileNotFoundError, ValueError: a model that this one starts from is not there, or does not fit.
        Preempted: the run was asked to stop and has saved.
    """
    experiment = load_config(config)
    if debug:
        experiment, init = debugged(experiment), init or "tiny"
    experiment = changed(experiment, overrides)
    place = absolute(epath.Path(runs) / experiment.name)
    result = place / RESULT
    if (result / folder.CONFIG_FILE).exists():
        print(f"{result}: already trained; remove {place} to train again")
        return result
    starts = _starts(experiment, place.parent, init)
    task = task_of(experiment, starts)
    before = _load_starts(task, starts)
    origin = {
        "config": experiment.name,
        "starts": {str(start): folder.digest(start) for start in starts},
        "recipe": checkpoints.identity_of(experiment.task, MAY_CHANGE) if isinstance(experiment.task, Recipe) else {},
    }
    place.mkdir(parents=True, exist_ok=True)
    (place / CONFIG_COPY).write_text(find_config(config).read_text())
    params = train(task, experiment.options, place, before, json.loads(json.dumps(origin)))
    save_model(task, params, result, experiment.result_dtype)
    return result


def changed(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """An experiment with options changed as on the command line; a wrong name is answered with the right one."""
    if not isinstance(experiment.task, Recipe):
        options = tyro.cli(TrainOptions, default=experiment.options, args=list(overrides), prog="gsva train")
        return dataclasses.replace(experiment, options=options)
    both = tyro.cli(_Both, default=_Both(experiment.options, experiment.task), args=list(overrides), prog="gsva train")
    options = dataclasses.replace(both.options, steps=both.recipe.steps(both.options))
    return dataclasses.replace(experiment, options=options, task=both.recipe)


@dataclasses.dataclass(frozen=True)
class _Both:
    """What may be changed of an experiment with a recipe."""

    options: Annotated[TrainOptions, tyro.conf.arg(name="")]
    recipe: Annotated[Recipe, tyro.conf.arg(name="")]


def debugged(experiment: Experiment) -> Experiment:
    """The same in a few steps on a CPU: the shipped tiny model and scenes, as much of the recipe as fits them."""
    small = dict(steps=4, batch_size=2 * experiment.options.accumulate, warmup_steps=1, log_every=1, save_every=2)
    options = dataclasses.replace(experiment.options, validation_examples=4, **small)
    task = experiment.task
    if isinstance(task, Recipe):
        scenes = "grefcoco|unc|testA"
        fitting = dict(families=(Family(1, (scenes,)),), validation=scenes, epochs=0, length=384, canvas=320)
        task = dataclasses.replace(task, data=str(ASSETS / "scenes"), dtype="float32", **fitting)
    return dataclasses.replace(experiment, name=f"{experiment.name}_debug", options=options, task=task)


def task_of(experiment: Experiment, starts: Sequence[epath.Path]) -> Task:
    """What an experiment trains; a recipe takes model and vocabulary from what it starts from.

    Raises:
        ValueError: a recipe has nothing to start from.
    """
    if not isinstance(experiment.task, Recipe):
        return experiment.task
    if not starts:
        raise ValueError(f"{experiment.name} starts from a model: make one with `gsva import` and give it with --init")
    model = folder.read_config(GsvaConfig, starts[-1])
    return experiment.task.task(model, tokenizers.load(starts[-1]), folder.digest(starts[-1]))


def model_at(run: epath.PathLike, step: int | None) -> epath.Path:
    """The model folder of a step of a run, made of its checkpoint where it is not there yet: ``run/model-STEP``.

    Args:
        run: its folder.
        step: None for the best one.

    Raises:
        FileNotFoundError, ValueError: the run has no such checkpoint, or what it started from is not there any more.
    """
    run = absolute(run)
    experiment, identity = load_config(run / CONFIG_COPY), checkpoints.read_identity(run)
    if step is None:
        with checkpoints.open_manager(run, experiment.options, Training.judged_by) as manager:
            step = checkpoints.best_step(manager, run)
    result = run / f"{RESULT}-{step}"
    if (result / folder.CONFIG_FILE).exists():
        return result
    for start, digest in identity["starts"].items():
        if folder.digest(start) != digest:
            raise ValueError(f"{start}: is not the model that {run} started from; put that one back")
    starts = [epath.Path(start) for start in identity["starts"]]
    task = task_of(experiment, starts)
    # Of the options only those count that the state depends on; they can't be changed within a run.
    names = {field.name for field in dataclasses.fields(TrainOptions)} & identity.keys()
    kept = {name: tuple(value) if isinstance(value := identity[name], list) else value for name in names}
    options = dataclasses.replace(experiment.options, **kept, mesh=MeshShape())
    opened = open_run(task, options, run, _load_starts(task, starts), step)
    save_model(task, combine(opened.frozen, opened.state.params), result, experiment.result_dtype)
    return result


def _starts(experiment: Experiment, runs: epath.Path, init: epath.PathLike | None) -> list[epath.Path]:
    """The folders whose parameters an experiment starts from; ``init`` comes last, over those of earlier runs.

    Raises:
        FileNotFoundError: one is not there; with ``init``, earlier runs may be missing.
    """
    starts = [runs / name / RESULT for name in experiment.starts_from]
    if init is not None:
        return [*(start for start in starts if start.exists()), find_checkpoint(init)]
    for start in starts:
        if not start.exists():
            raise FileNotFoundError(f"{start}: no such model; train {start.parent.name} first")
    return starts


def _load_starts(task: Task, starts: Sequence[epath.Path]) -> dict:
    """The parameters of the starting points that a task has, laid over each other, and the helpers of lessons.

    Raises:
        ValueError: one has nothing that the task has, or parameters of other shapes.
    """
    shapes, before = jax.eval_shape(task.init, jax.random.key(0)), {}
    for start in starts:
        values = folder.load(start, np.dtype(np.float32))
        parts = {name: values[name] for name in values if name in shapes and name != HELPERS}
        if not parts and HELPERS not in values:
            raise ValueError(f"{start}: has {', '.join(values)}, but what is trained has {', '.join(shapes)}")
        print(f"{start}: starting from its {', '.join(parts)}")
        if isinstance(task, Training):
            parts = task.load(parts)
        check_fits(shapes, parts, str(start))
        before = combine(before, {**parts, **({HELPERS: values[HELPERS]} if HELPERS in values else {})})
    return before


def save_model(task: Task, params: dict, result: epath.Path, dtype: str) -> None:
    """Writes what a task trained as a model folder, in a dtype; all processes take part, the first one writes."""
    kept = {name: params[name] for name in task.kept if name in params}
    arrays = jax.tree.map(lambda leaf: hosts.gather(leaf.astype(dtype)), kept)
    if hosts.is_first():
        leaves = folder.from_params(task.unload(arrays) if isinstance(task, Training) else arrays)
        tokenizer = getattr(task, "tokenizer", None)
        folder.save(result, leaves, task.model.to_json(), tokenizer.save if tokenizer else None)
    hosts.wait_for_all(f"{result} is written")
