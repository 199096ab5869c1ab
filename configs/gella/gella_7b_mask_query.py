"""GELLA-7B with ResoBlend with the masks asking and the picture answering (Table 7, last row; spec gella A4).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_mask_query --init START --data DATA

Published: PQ 53.1, SQ 83.3, RQ 63.8 on COCO panoptic. Which wiring that is of is not told; our default is `skip`.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Masks look at the picture at their own resolution."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, blend="mask_query")
    return dataclasses.replace(base, name="gella_7b_mask_query", recipe=recipe)
