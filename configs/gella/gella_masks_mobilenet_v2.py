"""Colormaps encoded and decoded, without picture and text, by a MobileNetV2 (Tables 6a, 6b; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --backbone MOBILENET_V2 --out START
    gella train gella_masks_mobilenet_v2 --init START --data DATA

Published: AP 95.2 on COCO's entities, class-agnostic, with true masks, in Table 6a and, with the
same other numbers, in Table 6b.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """As the Swin-T."""
    base = load_config("gella_masks_swin_t")
    recipe = dataclasses.replace(base.recipe, backbone="mobilenet_v2")
    return dataclasses.replace(base, name="gella_masks_mobilenet_v2", recipe=recipe)
