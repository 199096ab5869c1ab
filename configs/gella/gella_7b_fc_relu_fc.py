"""GELLA-7B whose association has two layers on both sides (Table 10; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_fc_relu_fc --init START --data DATA

Published: AR 69.7 on PNG, 69.8 with one.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Linear, ReLU, linear; fresh ones."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, association="fc_relu_fc")
    return dataclasses.replace(base, name="gella_7b_fc_relu_fc", recipe=recipe)
