"""Loading a model for a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grounding_jax.terminal import loading

if TYPE_CHECKING:
    from grounding_jax.sharding.mesh import MeshShape
    from gsva_jax.predict import Gsva


def load_model(checkpoint: str, dtype: str | None = None, mesh: MeshShape | None = None) -> Gsva:
    """`gsva_jax.load`, shown while it lasts."""
    with loading(checkpoint):
        from gsva_jax.predict import load

        return load(checkpoint, dtype, mesh)
