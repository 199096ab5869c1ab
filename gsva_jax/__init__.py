"""GSVA: a picture and several expressions in; one sentence, a mask per target and a clear "not there" out.

What stands in `__all__` is imported when it is first used: `gsva --help` has no need to wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gsva_jax.config import GsvaConfig
    from gsva_jax.predict import Answer, Gsva, Target, load

__all__ = ["Answer", "Gsva", "GsvaConfig", "Target", "load"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "gsva_jax.config" if name == "GsvaConfig" else "gsva_jax.predict"
    return getattr(importlib.import_module(module), name)
