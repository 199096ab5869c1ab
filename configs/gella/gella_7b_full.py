"""GELLA-7B whose language model is trained as a whole (spec gella c).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_full --init START --data DATA

No row of the paper's tables: what it trains of the language model is not told. Ours is LoRA.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """All of it learns, the vocabulary included."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, llm="full")
    return dataclasses.replace(base, name="gella_7b_full", recipe=recipe)
