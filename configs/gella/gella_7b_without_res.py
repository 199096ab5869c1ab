"""GELLA-7B whose ResoBlend has no residual connection (Table 7; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_without_res --init START --data DATA

Published: PQ 50.9 on COCO panoptic, 53.1 with all parts.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Its ResoBlend is a fresh one."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, without=("res",))
    return dataclasses.replace(base, name="gella_7b_without_res", recipe=recipe)
