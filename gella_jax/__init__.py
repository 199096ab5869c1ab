"""GELLA: a picture, a caption and somebody's masks of entities in; which masks every noun of the caption means out.

What stands in `__all__` is imported when it is first used: `gella --help` has no need to wait for JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from grounding_jax import __version__ as __version__

if TYPE_CHECKING:
    from gella_jax.answers import Grounding, Noun, Nouns, Reference
    from gella_jax.config import GellaConfig
    from gella_jax.loading import load
    from gella_jax.panoptic import PanopticAnswer
    from gella_jax.predict import Gella, Request
    from grounding_jax.data.entity_masks import Entities, read_masks
    from grounding_jax.sharding.mesh import MeshShape

__all__ = [
    "Entities",
    "Gella",
    "GellaConfig",
    "Grounding",
    "MeshShape",
    "Noun",
    "Nouns",
    "PanopticAnswer",
    "Reference",
    "Request",
    "load",
    "read_masks",
]
_ELSEWHERE = {
    "Entities": "grounding_jax.data.entity_masks",
    "GellaConfig": "gella_jax.config",
    "MeshShape": "grounding_jax.sharding.mesh",
    "PanopticAnswer": "gella_jax.panoptic",
    "load": "gella_jax.loading",
    "read_masks": "grounding_jax.data.entity_masks",
}


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "gella_jax.predict")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
