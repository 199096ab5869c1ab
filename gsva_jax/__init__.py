"""GSVA: a picture and several expressions in; one sentence, a mask per target and a clear "not there" out."""

from gsva_jax.config import GsvaConfig
from gsva_jax.predict import Answer, Gsva, Target, load

__all__ = ["Answer", "Gsva", "GsvaConfig", "Target", "load"]
