"""GSVA-7B, finetuned on gRefCOCO (paper table A3; spec gsva e).

    gsva train gsva_7b_grefcoco --init gsva-7b-pt --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
"""

import dataclasses

from gsva_jax.experiment import Experiment, load_config
from gsva_jax.mixture import Family


def get_config() -> Experiment:
    """Ten epochs over its training images."""
    base = load_config("gsva_7b")
    task = dataclasses.replace(base.task, families=(Family(1, ("grefcoco|unc|train",)),), epochs=10, canvas=640)
    options = dataclasses.replace(base.options, learning_rate=1e-4)
    return dataclasses.replace(base, name="gsva_7b_grefcoco", task=task, options=options)
