"""GELLA-7B that learns narratives alone (Table 9, 0/0/1; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_ground --init START --data DATA

Published: AR 66.4 and AR_text 79.4 on PNG, 69.8 and 96.1 with all tasks.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """The last of the three tasks."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, families=base.recipe.families[-1:])
    return dataclasses.replace(base, name="gella_7b_ground", recipe=recipe)
