"""From the name of a model, a folder, a run or a step of it to a `Gella` in memory: `gella_jax.load`."""

from __future__ import annotations

from etils import epath

from gella_jax import weights
from gella_jax.config import ASSETS, CATEGORIES_FILE, SEGMENTER_FOLDER
from gella_jax.engine import make_engine
from gella_jax.predict import Gella
from gella_jax.sharding import table
from grounding_jax.data.sources.panoptic import read_categories
from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC
from grounding_jax.inference.placement import place
from grounding_jax.segmenters import load_segmenter
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.run_folder import find_folder, step_of_run


def load(checkpoint: epath.PathLike, dtype=None, mesh: MeshShape | None = None) -> Gella:
    """Loads a model for prediction.

    Args:
        checkpoint: a model folder, a finished run, a step of a run (``run@step`` or ``run@best``), or the name of a
            shipped model.
        dtype: dtype of the parameters and the computation, or its name; by default float32 on CPU and bfloat16
            elsewhere.
        mesh: layout of this process's devices, such as ``MeshShape(data=-1, fsdp=1)`` for a copy of the
            model on each, or ``MeshShape(fsdp=1, tensor=-1)`` for one that is too large for a device; None takes one.

    Raises:
        FileNotFoundError, ValueError: in one line, what is missing or does not fit.
    """
    folder = find_checkpoint(checkpoint)
    config, params, tokenizer = weights.load(folder)  # mapped files, nothing is read
    placed = place(params, table(config), dtype, mesh)
    finder = folder / SEGMENTER_FOLDER
    segmenter = load_segmenter(finder, dtype, mesh) if finder.exists() else None
    categories = read_categories(folder / CATEGORIES_FILE) if (folder / CATEGORIES_FILE).exists() else COCO_PANOPTIC
    engine = make_engine(config, placed.params, tokenizer, placed.dtype, placed.mesh)
    return Gella(engine, segmenter, categories)


def find_checkpoint(name: epath.PathLike) -> epath.Path:
    """The model folder that a name means: a shipped model's, that of a run or of a step of it, or the path itself.

    Raises:
        FileNotFoundError, ValueError: there is none of this name, a run has no such step, or has not finished.
    """
    if step_of_run(name):
        from gella_jax.training.experiment import RECIPES  # what only training needs is not imported for model folders
        from grounding_jax.training.runs import find_model

        return find_model(name, ASSETS, RECIPES)
    return find_folder(name, ASSETS)
