"""GSVA-7B on SAM ViT-L in the place of ViT-H (supplementary; spec gsva i).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_L --out START_L
    gsva train gsva_7b_sam_l --init START_L --data DATA

Otherwise the first row of paper table A3. Published for gRefCOCO val: gIoU 61.67, cIoU 60.46, N-acc 56.04,
against 63.32, 61.70, 56.45 of ViT-H.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As the 7B: the size of SAM is the start's."""
    return dataclasses.replace(load_config("gsva_7b"), name="gsva_7b_sam_l")
