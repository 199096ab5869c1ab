"""GSVA-13B on Vicuna, pre-training on the mixture (paper table A3; spec gsva a.1, e).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_H --sizes RANK_64 --out START
    gsva train gsva_13b --init START --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
RANK_64 is a file with {"lora_r": 64}.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As the 7B; two devices share the work inside a layer."""
    base = load_config("gsva_7b")
    mesh = dataclasses.replace(base.options.mesh, tensor=2)
    return dataclasses.replace(base, name="gsva_13b", options=dataclasses.replace(base.options, mesh=mesh))
