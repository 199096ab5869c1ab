"""From the name of a model, a folder or a finished run to a `Gella` in memory: `gella_jax.load`."""

from __future__ import annotations

from etils import epath

from gella_jax import weights
from gella_jax.engine import make_engine
from gella_jax.predict import Gella
from gella_jax.sharding import table
from grounding_jax.inference.placement import place
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.run_folder import find_folder


def load(checkpoint: epath.PathLike, dtype=None, mesh: MeshShape | None = None) -> Gella:
    """Loads a model for prediction.

    Args:
        checkpoint: a model folder, or a finished run.
        dtype: dtype of the parameters and the computation, or its name; by default float32 on CPU and bfloat16
            elsewhere.
        mesh: layout of this process's devices, such as ``MeshShape(data=-1, fsdp=1)`` for a copy of the
            model on each, or ``MeshShape(fsdp=1, tensor=-1)`` for one that is too large for a device; None takes one.

    Raises:
        FileNotFoundError, ValueError: in one line, what is missing or does not fit.
    """
    config, params, tokenizer = weights.load(find_folder(checkpoint))  # mapped files, nothing is read
    placed = place(params, table(config), dtype, mesh)
    return Gella(make_engine(config, placed.params, tokenizer, placed.dtype, placed.mesh))
