"""Colormaps encoded and decoded, without picture and text, by a Swin-T (Table 6a; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_masks_swin_t --init START --data DATA

Published: AP 95.8 on COCO's entities, class-agnostic, with true masks.
"""

import dataclasses

from gella_jax.data.mixture import Family
from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Backbone and Mask2Former learn to find the masks of COCO's pictures again; the rest of START takes no part."""
    base = load_config("gella_7b")
    families = (Family(1, "entities", ("coco_entity|train2017",)),)
    data = dict(families=families, validation="coco_entity|val2017")
    recipe = dataclasses.replace(base.recipe, blend="none", backbone="swin_t", **data)
    return dataclasses.replace(base, name="gella_masks_swin_t", recipe=recipe)
