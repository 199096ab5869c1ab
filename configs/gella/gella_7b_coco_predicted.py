"""GELLA-7B trained on masks that a model of COCO predicts (Table 8a; spec gella i).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_coco_predicted --init START --data DATA --masks MASKS

Published: PQ 53.0 on COCO panoptic, 53.1 trained on true masks. MASKS: see docs/gella.md.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """A noun means those of them that match its true ones."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, masks="coco_predicted")
    return dataclasses.replace(base, name="gella_7b_coco_predicted", recipe=recipe)
