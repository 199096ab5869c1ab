"""A run as a whole: what it starts from, what its folder says it is, and the model folder that comes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import jax
from etils import epath

from grounding_jax.sharding import hosts
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training import checkpoints, converted
from grounding_jax.training.loop import MAY_CHANGE, open_run
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.run_folder import (
    IDENTITY_FILE,
    absolute,
    decode,
    find_folder,
    identity_of,
    read_identity,
    step_of_run,
)
from grounding_jax.training.state import check_fits, combine
from grounding_jax.training.task import Recipe, Task
from grounding_jax.weights import folder

Recipes = Mapping[str, type[Recipe]]  # by kind: the names that stand in run folders
ResultDtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True)
class Origin:
    """What a run is a run of besides its options; with them it stands in the run folder's run.json.

    Attributes:
        config: name of the config.
        kind: name of the recipe's class in the `Recipes` of the system.
        recipe: its fields, as JSON has them, without those that may change.
        starts: digests of the model folders that it starts from, by their paths, in order.
        result_dtype: dtype of the trained model folder.
        best_metric: see `Task`.
    """

    config: str
    kind: str
    recipe: dict
    starts: dict[str, str]
    result_dtype: ResultDtype
    best_metric: str


def origin_of(
    config: str, recipe: Recipe, recipes: Recipes, task: Task, starts: Sequence[epath.Path], result_dtype: ResultDtype
) -> Origin:
    """The origin of a run.

    Raises:
        ValueError: the recipe's class has no name among the ``recipes``.
        FileNotFoundError: a start is not there.
    """
    kinds = {cls: kind for kind, cls in recipes.items()}
    if type(recipe) not in kinds:
        raise ValueError(f"{config}: a {type(recipe).__name__} is none of the recipes {', '.join(recipes)}")
    digests = {str(start): folder.digest(start) for start in starts}
    fields = identity_of(recipe, recipe.may_change)
    return Origin(config, kinds[type(recipe)], fields, digests, result_dtype, task.best_metric)


def read_run(run: epath.Path, recipes: Recipes) -> tuple[Origin, Recipe, TrainOptions]:
    """What a run folder says it is a run of; options that may change have their defaults.

    Raises:
        FileNotFoundError: the folder is no run folder.
        ValueError: it was made by an older version, is damaged, or is of another system.
    """
    identity, file = read_identity(run), run / IDENTITY_FILE
    if "kind" not in identity:
        raise ValueError(
            f"{run}: its {IDENTITY_FILE} does not say what it trains, since an older version began it: call `train` "
            "with its config once more, which writes that down, and name the step again"
        )

    def values(cls: type) -> dict:
        return {field.name: identity[field.name] for field in dataclasses.fields(cls) if field.name in identity}

    origin, options = (decode(cls, values(cls), str(file)) for cls in (Origin, TrainOptions))
    if origin.kind not in recipes:
        raise ValueError(f"{file}: kind is {origin.kind!r}, should be one of {', '.join(recipes)}")
    recipe = decode(recipes[origin.kind], origin.recipe, f"{file}, recipe")
    default = TrainOptions(1, 1, 1.0)
    return origin, recipe, dataclasses.replace(options, **{name: getattr(default, name) for name in MAY_CHANGE})


def find_model(name: epath.PathLike, shipped: epath.Path, recipes: Recipes) -> epath.Path:
    """The model folder that a name means: that of a step of a run, or what `find_folder` finds.

    Raises:
        FileNotFoundError, ValueError: see `model_at` and `find_folder`.
    """
    at = step_of_run(name)
    return model_at(*at, recipes) if at else find_folder(name, shipped)


def model_at(run: epath.PathLike, step: int | None, recipes: Recipes) -> epath.Path:
    """The model folder of a step of a run, made of its checkpoint where it is not there yet: ``run/model-STEP``.

    Nothing in the run folder is executed.

    Args:
        run: its folder.
        step: None for the best one.
        recipes: those that the run may have.

    Raises:
        FileNotFoundError, ValueError: the run has no such checkpoint, or what it started from is not there any more.
    """
    run = absolute(run)
    origin, recipe, options = read_run(run, recipes)
    if step is None:
        step = checkpoints.best_step(run, origin.best_metric)
    result = converted.place(run, step)
    if converted.is_current(run, step):
        return result
    for start, digest in origin.starts.items():
        if folder.digest(start) != digest:
            raise ValueError(f"{start}: is not the model that {run} started from; put that one back")
    starts = [epath.Path(start) for start in origin.starts]
    task = recipe.task(starts[-1] if starts else None)
    opened = open_run(task, dataclasses.replace(options, mesh=MeshShape()), run, load_starts(task, starts), step)
    if hosts.is_first():
        result.rmtree(missing_ok=True)  # made of another checkpoint, or not to the end
    save_result(task, combine(opened.frozen, opened.state.params), result, origin.result_dtype)
    if hosts.is_first():
        converted.write_note(run, step)
    return result


def load_starts(task: Task, starts: Sequence[epath.Path]) -> dict:
    """The parameters of the starting points that a task has or reads, laid over each other.

    Raises:
        ValueError: one has nothing that the task has, or parameters of other shapes.
    """
    shapes, before = jax.eval_shape(task.init, jax.random.key(0)), {}
    for start in starts:
        values = task.read_start(start)
        parts = {name: values[name] for name in values if name in shapes}
        others = {name: values[name] for name in task.start_keys if name in values and name not in shapes}
        if not parts and not others:
            raise ValueError(f"{start}: has {', '.join(values)}, but what is trained has {', '.join(shapes)}")
        print(f"{start}: starting from its {', '.join([*parts, *others])}")
        parts = task.import_params(parts)
        check_fits(shapes, parts, str(start))
        before = combine(before, {**parts, **others})
    return before


def save_result(task: Task, params: dict, result: epath.Path, dtype: ResultDtype) -> None:
    """Writes what a task trained as a model folder, in a dtype; all processes take part, the first one writes."""
    exported = {name: params[name] for name in task.export_keys if name in params}
    arrays = jax.tree.map(lambda leaf: hosts.gather(leaf.astype(dtype)), exported)
    if hosts.is_first():
        task.save_model(result, arrays)
    hosts.wait_for_all(f"{result} is written")
