"""GSVA-7B, finetuned on Ref-ZOM (paper table A3; spec gsva e).

    gsva import --format official gsva-7b-pt.bin --language-model LLAVA --vision-tower CLIP --out gsva-7b-pt
    gsva train gsva_7b_refzom --init gsva-7b-pt --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.data.mixture import Family
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As on gRefCOCO, but one epoch over its 43,749 training images; it has no split for validation."""
    base = load_config("gsva_7b_grefcoco")
    data = dict(families=(Family(1, ("refzom|final|train",)),), validation="")
    recipe = dataclasses.replace(base.recipe, epochs=1, **data)
    return dataclasses.replace(base, name="gsva_7b_refzom", recipe=recipe)
