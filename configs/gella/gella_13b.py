"""GELLA-13B by the paper's recipe (Tables 2 to 4; spec gella c).

    gella import --format llava --language-model LLAVA_13B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_13b --init START --data DATA

Published: AR 71.3 on PNG (things 67.8, stuff 73.1, singulars 71.0, plurals 59.5), cIoU 76.7 on RefCOCO val, SQ 83.3 on
COCO panoptic.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """As the 7B: what is larger is the start."""
    return dataclasses.replace(load_config("gella_7b"), name="gella_13b")
