"""GSVA-13B on Llama-2-chat, pre-training on the mixture (paper table A3; spec gsva a.1, e).

    gsva import --format llava --language-model LLAVA_LLAMA2_13B --vision-tower CLIP --sam SAM_VIT_H --sizes RANK_64 \\
        --template llava_llama_2 --out START
    gsva train gsva_13b_llama2 --init START --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
RANK_64 is a file with {"lora_r": 64}.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As the 13B on Vicuna: the template is the model's."""
    return dataclasses.replace(load_config("gsva_13b"), name="gsva_13b_llama2")
