"""GSVA-7B, finetuned on the classic referring datasets (paper table A3; spec gsva e).

    gsva import --format official gsva-7b-pt.bin --language-model LLAVA --vision-tower CLIP --out gsva-7b-pt
    gsva train gsva_7b_res --init gsva-7b-pt --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.data.mixture import CLASSIC, Family
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As on gRefCOCO, but 50,000 micro steps, that is 5,000 updates, on RefCOCO, RefCOCO+, RefCOCOg and RefCLEF."""
    base = load_config("gsva_7b_grefcoco")
    data = dict(families=(Family(1, CLASSIC),), validation="refcoco|unc|val")
    recipe = dataclasses.replace(base.recipe, epochs=0, **data)
    return dataclasses.replace(base, name="gsva_7b_res", recipe=recipe)
