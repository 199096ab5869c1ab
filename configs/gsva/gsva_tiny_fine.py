"""Tiny GSVA's last lesson: SAM sees pictures of one and a half times the side, for finer masks (docs/tiny.md).

gsva train gsva_tiny_fine
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.tiny.vocabulary import tiny_config
from gsva_jax.training.experiment import load_config

SIDE = 216  # of the scenes: the frame of its SAM, whose grid has 27 x 27 patches


def get_config() -> Experiment:
    """The language model and the tower stay as they are; position tables of the start are interpolated."""
    base = load_config("gsva_tiny")
    recipe = dataclasses.replace(
        base.recipe,
        model=dataclasses.replace(tiny_config(SIDE), smallest_part=60),
        size=SIDE,
        trainable=("sam/(image_encoder|mask_decoder)", "prompt_mlp"),
        conversations=1,
        length=288,
        imitation=0.0,
        alignment=0.0,
    )
    options = dataclasses.replace(
        base.options, steps=2500, batch_size=8, learning_rate=6e-4, warmup_steps=50, slow=(), slow_rate=1.0
    )
    return dataclasses.replace(base, name="gsva_tiny_fine", recipe=recipe, options=options, starts_from=("gsva_tiny",))
