"""GELLA-7B with a CLIP of 224 pixels (Table 5a; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_224 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_clip_224 --init START --data DATA

Published: PQ 51.5 on COCO panoptic, 53.1 with 336 pixels.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """CLIP is that of the start: 16 x 16 patches in the place of 24 x 24."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, clip_size=224)
    return dataclasses.replace(base, name="gella_7b_clip_224", recipe=recipe)
