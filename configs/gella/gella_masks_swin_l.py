"""Colormaps encoded and decoded, without picture and text, by a Swin-L (Table 6a; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_L --out START
    gella train gella_masks_swin_l --init START --data DATA

Published: AP 96.3 on COCO's entities, class-agnostic, with true masks.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """As the Swin-T."""
    base = load_config("gella_masks_swin_t")
    recipe = dataclasses.replace(base.recipe, backbone="swin_l")
    return dataclasses.replace(base, name="gella_masks_swin_l", recipe=recipe)
