"""From the name of a model, a folder, a run or a step of it to a `Gsva` in memory: `gsva_jax.load`."""

from __future__ import annotations

from etils import epath

from grounding_jax.inference.placement import place
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.run_folder import find_folder, step_of_run
from gsva_jax import weights
from gsva_jax.config import ASSETS
from gsva_jax.engine import make_engine
from gsva_jax.predict import Gsva
from gsva_jax.sharding import table


def load(checkpoint: epath.PathLike, dtype=None, mesh: MeshShape | None = None) -> Gsva:
    """Loads a model for prediction.

    Args:
        checkpoint: a model folder, a finished run, a step of a run (``run@step`` or ``run@best``), or the name of a
            shipped model ("tiny").
        dtype: dtype of the parameters and the computation, or its name; by default float32 on CPU, else bfloat16.
        mesh: layout of this process's devices, such as ``MeshShape(data=-1, fsdp=1)`` for a copy of the
            model on each, or ``MeshShape(fsdp=1, tensor=-1)`` for one that is too large for a device; None takes one.

    Raises:
        FileNotFoundError, ValueError: in one line, what is missing or does not fit.
    """
    config, params, tokenizer = weights.load(find_checkpoint(checkpoint))  # mapped files, nothing is read
    placed = place(params, table(config), dtype, mesh)
    return Gsva(make_engine(config, placed.params, tokenizer, placed.dtype, placed.mesh))


def find_checkpoint(name: epath.PathLike) -> epath.Path:
    """The model folder that a name means: a shipped model's, that of a run or of a step of it, or the path itself.

    Raises:
        FileNotFoundError, ValueError: there is none of this name, a run has no such step, or has not finished.
    """
    if step_of_run(name):
        from grounding_jax.training.runs import find_model  # what only training needs is not imported for model folders
        from gsva_jax.training.experiment import RECIPES

        return find_model(name, ASSETS, RECIPES)
    return find_folder(name, ASSETS)
