"""GSVA-7B with 1 to 10 targets of a picture at once (supplementary, figure A4; spec gsva i).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_H --out START
    for M in 1 2 3 4 5 6 7 8 9 10; do
        gsva train gsva_7b_targets --init START --data DATA --max-targets $M --runs RUNS/targets_$M
    done

Each has a run folder of its own, RUNS/targets_M/gsva_7b_targets. Pre-training as in the first row of paper table A3,
where M is 5; in the paper the numbers rise up to there and stay, and from 7 on it takes more than 24 GB.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As the 7B; M comes from the command line."""
    return dataclasses.replace(load_config("gsva_7b"), name="gsva_7b_targets")
