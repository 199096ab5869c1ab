"""GSVA: a picture and several expressions in; one sentence, a mask per target and a clear "not there" out.

What stands in `__all__` is imported when it is first used: `gsva --help` has no need to wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from grounding_jax import __version__ as __version__

if TYPE_CHECKING:
    from grounding_jax.sharding.mesh import MeshShape
    from gsva_jax.config import GsvaConfig
    from gsva_jax.loading import load
    from gsva_jax.predict import Answer, Gsva, Target

__all__ = ["Answer", "Gsva", "GsvaConfig", "MeshShape", "Target", "load"]
_ELSEWHERE = {
    "GsvaConfig": "gsva_jax.config",
    "MeshShape": "grounding_jax.sharding.mesh",
    "load": "gsva_jax.loading",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "gsva_jax.predict")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
