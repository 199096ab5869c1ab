"""GSVA-7B, finetuned on Ref-ZOM (paper table A3; spec gsva e).

    gsva train gsva_7b_refzom --init gsva-7b-pt --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
"""

import dataclasses

from gsva_jax.experiment import Experiment, load_config
from gsva_jax.mixture import Family


def get_config() -> Experiment:
    """One epoch over its 43,749 training images."""
    base = load_config("gsva_7b")
    task = dataclasses.replace(base.task, families=(Family(1, ("refzom|final|train",)),), epochs=1, canvas=640)
    options = dataclasses.replace(base.options, learning_rate=1e-4)
    return dataclasses.replace(base, name="gsva_7b_refzom", task=task, options=options)
