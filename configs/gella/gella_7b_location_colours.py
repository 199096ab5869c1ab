"""GELLA-7B with colours that tell where a mask is (Table 5b; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_location_colours --init START --data DATA

Published: PQ 52.9 on COCO panoptic, 53.1 with random colours.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Painter's table of colours."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, colours="location")
    return dataclasses.replace(base, name="gella_7b_location_colours", recipe=recipe)
