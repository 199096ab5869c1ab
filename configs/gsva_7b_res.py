"""GSVA-7B, finetuned on the classic referring datasets (paper table A3; spec gsva e).

    gsva train gsva_7b_res --init gsva-7b-pt --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
"""

import dataclasses

from gsva_jax.experiment import Experiment, load_config
from gsva_jax.mixture import Family


def get_config() -> Experiment:
    """50,000 micro steps, that is 5,000 updates."""
    base = load_config("gsva_7b")
    classic = Family(1, ("refcoco|unc|train", "refcoco+|unc|train", "refcocog|umd|train", "refclef|unc|train"))
    task = dataclasses.replace(base.task, families=(classic,), canvas=640)
    options = dataclasses.replace(base.options, learning_rate=1e-4)
    return dataclasses.replace(base, name="gsva_7b_res", task=task, options=options)
