"""Colormaps encoded and decoded, trained on masks that a model of EntitySeg predicts (Table 6b; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --backbone MOBILENET_V2 --out START
    gella train gella_masks_entity_predicted --init START --data DATA --masks MASKS

Published: AP 94.9 on COCO's entities, class-agnostic, 95.2 trained on true masks. The row of those has the
numbers of Table 6a's MobileNetV2, so that all of Table 6b are taken to be of one. MASKS: see docs/gella.md.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """As the MobileNetV2 on true masks."""
    base = load_config("gella_masks_mobilenet_v2")
    recipe = dataclasses.replace(base.recipe, masks="entity_predicted")
    return dataclasses.replace(base, name="gella_masks_entity_predicted", recipe=recipe)
