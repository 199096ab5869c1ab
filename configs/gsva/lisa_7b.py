"""LISA-7B, the baseline: a conversation for each target, and no [REJ] (spec gsva a.5, c.3, k).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_H --out START
    gsva train lisa_7b --init START --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run. Model and optimizer are
those of the first row of paper table A3; data, proportions and number of targets are LISA's. The paper's "LISA ft" goes
on from there:

    gsva train gsva_7b_refzom --init RUNS/lisa_7b --data DATA --runs RUNS/lisa_ft
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.data.mixture import CLASSIC, REASONING, SEMANTIC, TALK, Family
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """START's vocabulary loses its [REJ]; nothing in the data is absent, for gRefCOCO is not in it."""
    base = load_config("gsva_7b")
    families = Family(9, SEMANTIC), Family(3, CLASSIC), Family(3, TALK), Family(1, REASONING)
    data = dict(families=families, validation="ReasonSeg|val", max_targets=3)
    recipe = dataclasses.replace(base.recipe, tokens=("[SEG]",), **data)
    return dataclasses.replace(base, name="lisa_7b", recipe=recipe)
