"""An experiment: a recipe, how it is trained, and which earlier runs it starts from. `train CONFIG` runs one."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from typing import Annotated

import jax
import tyro
from etils import epath

from grounding_jax.sharding.mesh import MeshShape, check_batch, make_mesh, num_rows
from grounding_jax.training.loop import identity, train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import IDENTITY_FILE, RESULT, absolute, claim
from grounding_jax.training.runs import Recipes, ResultDtype, find_model, load_starts, origin_of, save_result
from grounding_jax.training.task import Recipe
from grounding_jax.weights import folder

_DESCRIPTION = (
    "Options of this config, with the values it gives them. Besides them, every training has --init CKPT (a model to "
    "start from), --runs DIR (folder of all runs; runs by default) and --debug (a few steps on small things)."
)


@dataclasses.dataclass(frozen=True)
class System:
    """What training has to know about the system whose models it trains.

    Attributes:
        program: name of its command.
        recipes: its recipes by kind.
        shipped: folder of the models that come with the package, inside that.
    """

    program: str
    recipes: Recipes
    shipped: epath.Path

    @property
    def configs(self) -> tuple[epath.Path, ...]:
        """Folders of its configs: beside the packages in a checkout, inside them in a wheel; only one is there."""
        package = self.shipped.parent
        return package.parent / "configs" / self.program, package / "configs"

    def config_files(self) -> list[epath.Path]:
        """The configs that come with the package, by their names."""
        return sorted(file for place in self.configs if place.is_dir() for file in place.glob("*.py"))


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What a config file returns.

    Attributes:
        name: name of the run folder.
        recipe: model, data and losses.
        options: steps, batches, rates, and the mesh.
        starts_from: names of runs beside this one whose parameters are laid over the random ones, in this order.
        result_dtype: dtype of the trained model folder.
    """

    name: str
    recipe: Recipe
    options: TrainOptions
    starts_from: tuple[str, ...] = ()
    result_dtype: ResultDtype = "float32"


def find_config(system: System, name: epath.PathLike) -> epath.Path:
    """The file of a config: a path, or the bare name of one of a system's.

    Raises:
        FileNotFoundError: there is none; lists the system's.
    """
    for path in (epath.Path(name), *(place / f"{name}.py" for place in system.configs)):
        if path.is_file():
            return path
    known = ", ".join(file.stem for file in system.config_files())
    raise FileNotFoundError(f"{name}: no such config; give a path to a Python file, or one of {known}")


def load_config(system: System, name: epath.PathLike) -> Experiment:
    """Runs the ``get_config`` of a config file, which is found by `find_config`.

    Raises:
        FileNotFoundError, ValueError: there is no such file, it is no Python, or has no ``get_config`` as it should be.
    """
    path = find_config(system, name)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if path.suffix != ".py" or spec is None or spec.loader is None:
        raise ValueError(f"{path}: a config is a Python file, whose name ends in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (SyntaxError, ImportError) as error:
        raise ValueError(f"{path}: can't be run: {error}") from error
    get_config = getattr(module, "get_config", None)
    if get_config is None:
        raise ValueError(f"{path}: has no get_config(), which must return an Experiment")
    experiment = get_config()
    if not isinstance(experiment, Experiment):
        raise ValueError(f"{path}: get_config() must return an Experiment, not {type(experiment).__name__}")
    return experiment


def run(
    system: System,
    config: epath.PathLike,
    runs: epath.PathLike = "runs",
    init: epath.PathLike | None = None,
    overrides: Sequence[str] = (),
    debug: bool = False,
) -> epath.Path:
    """Trains an experiment, from where it stopped if it was started before.

    Args:
        system: whose experiment it is.
        config: path or name of a config file.
        runs: folder of all runs; this one goes to ``runs/<name>``, its result to ``runs/<name>/model``.
        init: a model folder to start from; its parameters come over those of the config's own starting points.
        overrides: changes of the options in the form ``--learning-rate 1e-3``.
        debug: a few steps on small things instead, see `debugged`.

    Returns:
        The folder of the trained model.

    Raises:
        FileNotFoundError, ValueError: a model that this one starts from is not there, or does not fit; the batch does
            not divide over the devices; the run folder holds another run.
        Preempted: the run was asked to stop and has saved.
    """
    experiment = load_config(system, config)
    if debug:
        experiment, init = debugged(experiment), init or "tiny"
    experiment = changed(experiment, overrides, f"{system.program} train {config}")
    if debug:
        experiment = fitted(experiment)
    check_batch(make_mesh(experiment.options.mesh), experiment.options.batch_size, experiment.options.accumulate)
    experiment = counted(experiment)
    options, place = experiment.options, absolute(epath.Path(runs) / experiment.name)
    starts = _starts(system, experiment, place.parent, init)
    task = experiment.recipe.task(starts[-1] if starts else None)
    origin = origin_of(experiment.name, experiment.recipe, system.recipes, task, starts, experiment.result_dtype)
    result = place / RESULT
    if (place / IDENTITY_FILE).exists():  # another run is refused before weights are read; a new one may not fit yet
        claim(place, identity(options, dataclasses.asdict(origin)))
    if (result / folder.CONFIG_FILE).exists():
        print(f"{result}: already trained; remove {place} to train again")
        return result
    params = train(task, options, place, load_starts(task, starts), dataclasses.asdict(origin))
    save_result(task, params, result, experiment.result_dtype)
    return result


def changed(experiment: Experiment, overrides: Sequence[str], program: str = "train CONFIG") -> Experiment:
    """An experiment with options changed as on the command line; a wrong name is answered with the right one.

    Raises:
        SystemExit: an option is wrong (2), or ``--help`` is among them (0).
    """
    unnamed = tyro.conf.arg(name="")  # --steps instead of --options.steps
    parts = dict(options=experiment.options, recipe=experiment.recipe)
    # The recipe's own class, which only the config knows.
    fields = [(name, Annotated[type(part), unnamed]) for name, part in parts.items()]  # pyrefly: ignore
    changes = dataclasses.make_dataclass("Changes", fields, frozen=True)
    after = tyro.cli(changes, default=changes(**parts), args=list(overrides), prog=program, description=_DESCRIPTION)
    return dataclasses.replace(experiment, options=after.options, recipe=after.recipe)


def counted(experiment: Experiment) -> Experiment:
    """The same with the number of updates that its recipe says, for which it may have to open a dataset."""
    options = dataclasses.replace(experiment.options, steps=experiment.recipe.steps(experiment.options))
    return dataclasses.replace(experiment, options=options)


def debugged(experiment: Experiment) -> Experiment:
    """The same in a few steps on a CPU: the shipped tiny model and scenes, as much of the recipe as fits them."""
    options = experiment.options
    try:
        options.mesh.resolve(jax.device_count())
    except ValueError:  # meant for more devices than there are
        options = dataclasses.replace(options, mesh=MeshShape())
    small = dict(steps=4, batch_size=2 * options.accumulate, warmup_steps=1, log_every=1, save_every=2)
    options = dataclasses.replace(options, validation_examples=4, **small)
    name = f"{experiment.name}_debug"
    return dataclasses.replace(experiment, name=name, options=options, recipe=experiment.recipe.debugged())


def fitted(experiment: Experiment) -> Experiment:
    """The same with its batch rounded up to what divides over the mesh."""
    options = experiment.options
    unit = num_rows(make_mesh(options.mesh)) * options.accumulate
    options = dataclasses.replace(options, batch_size=-(-options.batch_size // unit) * unit)
    return dataclasses.replace(experiment, options=options)


def _starts(system: System, experiment: Experiment, runs: epath.Path, init: epath.PathLike | None) -> list[epath.Path]:
    """The folders whose parameters an experiment starts from; ``init`` comes last, over those of earlier runs.

    Raises:
        FileNotFoundError: one is not there; with ``init``, earlier runs may be missing.
    """
    starts = [runs / name / RESULT for name in experiment.starts_from]
    if init is not None:
        named = absolute(find_model(init, system.shipped, system.recipes))  # the run may be asked from elsewhere
        return [*(start for start in starts if start.exists()), named]
    for start in starts:
        if not start.exists():
            raise FileNotFoundError(f"{start}: no such model; train {start.parent.name} first")
    return starts
