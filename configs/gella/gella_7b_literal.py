"""GELLA-7B with ResoBlend as the paper writes it to the letter, 1024 wide (Table 7, last row; spec gella A4).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_literal --init START --data DATA

Published: PQ 53.1, SQ 83.3, RQ 63.8 on COCO panoptic. Which wiring that is of is not told; our default is `skip`.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Nothing projects the picture's features; the MLP is 1024 -> 4096 -> 1024."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, blend="literal")
    return dataclasses.replace(base, name="gella_7b_literal", recipe=recipe)
