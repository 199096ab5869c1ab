"""GSVA-7B, finetuned on gRefCOCO (paper table A3; spec gsva e).

    gsva import --format official gsva-7b-pt.bin --language-model LLAVA --vision-tower CLIP --out gsva-7b-pt
    gsva train gsva_7b_grefcoco --init gsva-7b-pt --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run. A run of one's own is a
start as well: `--init RUNS/gsva_7b`.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.data.mixture import Family
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """Ten epochs over its training images, at a third of the rate; no picture of COCO is larger than the canvas."""
    base = load_config("gsva_7b")
    recipe = dataclasses.replace(base.recipe, families=(Family(1, ("grefcoco|unc|train",)),), epochs=10, canvas=640)
    options = dataclasses.replace(base.options, learning_rate=1e-4)
    return dataclasses.replace(base, name="gsva_7b_grefcoco", recipe=recipe, options=options)
