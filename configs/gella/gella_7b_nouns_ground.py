"""GELLA-7B that learns nouns and narratives, but no descriptions (Table 9, 0/.2/.8; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_nouns_ground --init START --data DATA

Published: AR 69.4 and AR_text 95.4 on PNG, 69.8 and 96.1 with descriptions.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """.2 and .8."""
    base = load_config("gella_7b")
    _, nouns, ground = base.recipe.families
    families = (nouns, dataclasses.replace(ground, rate=0.8))
    recipe = dataclasses.replace(base.recipe, families=families)
    return dataclasses.replace(base, name="gella_7b_nouns_ground", recipe=recipe)
