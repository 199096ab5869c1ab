"""GSVA-7B with eight tokens in the place of the shared [SEG] (supplementary; spec gsva i).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_H --out START
    gsva train gsva_7b_eight_tokens --init START --data DATA

Target j of a conversation is answered with [SEG000] ... [SEG007], number j mod 8. Otherwise the first row of paper
table A3. Published for gRefCOCO val: gIoU 16.13, cIoU 23.11, N-acc 0, against 63.32, 61.70, 56.45 of the shared token.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """START's vocabulary gets them in the place of its [SEG]."""
    base = load_config("gsva_7b")
    tokens = (*(f"[SEG{j:03d}]" for j in range(8)), "[REJ]")
    recipe = dataclasses.replace(base.recipe, tokens=tokens)
    return dataclasses.replace(base, name="gsva_7b_eight_tokens", recipe=recipe)
