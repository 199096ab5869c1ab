"""GELLA-7B whose ResoBlend has no 3x3 convolution (Table 7; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_without_conv --init START --data DATA

Published: PQ 52.4 on COCO panoptic, 53.1 with all parts.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """A 1x1 convolution takes its place; ResoBlend is a fresh one."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, without=("conv",))
    return dataclasses.replace(base, name="gella_7b_without_conv", recipe=recipe)
