"""GELLA-7B whose language model is frozen (spec gella c).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b_frozen --init START --data DATA

No row of the paper's tables: what it trains of the language model is not told. Ours is LoRA.
"""

import dataclasses

from gella_jax.training.experiment import load_config
from grounding_jax.training.experiment import Experiment


def get_config() -> Experiment:
    """Of the language model only the rows of [SEG] learn."""
    base = load_config("gella_7b")
    recipe = dataclasses.replace(base.recipe, llm="frozen")
    return dataclasses.replace(base, name="gella_7b_frozen", recipe=recipe)
