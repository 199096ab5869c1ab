"""Loading a model for a command."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from grounding_jax.terminal import loading, note

if TYPE_CHECKING:
    from grounding_jax.sharding.mesh import MeshShape
    from gsva_jax.predict import Gsva


def load_model(
    checkpoint: str, dtype: str | None = None, mesh: MeshShape | None = None, asked: Iterable[str] = ()
) -> Gsva:
    """`gsva_jax.load`, shown while it lasts; says which of the texts it will be asked about it can't know."""
    with loading(checkpoint):
        from grounding_jax.inference.known_names import unknown_line
        from gsva_jax.loading import find_checkpoint, load

        gsva = load(checkpoint, dtype, mesh)
        unknown = unknown_line(find_checkpoint(checkpoint), checkpoint, asked)
    if unknown:
        note(unknown)
    return gsva
