"""GSVA-7B on SAM ViT-B in the place of ViT-H (supplementary; spec gsva i).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_B --out START_B
    gsva train gsva_7b_sam_b --init START_B --data DATA

Otherwise the first row of paper table A3. Published for gRefCOCO val: gIoU 59.20, cIoU 56.36, N-acc 58.57,
against 63.32, 61.70, 56.45 of ViT-H.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As the 7B: the size of SAM is the start's."""
    return dataclasses.replace(load_config("gsva_7b"), name="gsva_7b_sam_b")
