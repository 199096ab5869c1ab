"""Tiny GSVA goes on with pictures and masks of twice the resolution, and without specks; not the shipped model yet.

gsva train gsva_tiny_fine --init tiny
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.tiny.vocabulary import tiny_config
from gsva_jax.training.experiment import load_config

SIDE = 288  # of the scenes: the frame of its SAM, whose grid has 36 x 36 patches


def get_config() -> Experiment:
    """Position tables of the start are interpolated."""
    base = load_config("gsva_tiny")
    trainable = ("prompt_mlp", "sam/mask_decoder", "sam/image_encoder", "projector", "llama")
    recipe = dataclasses.replace(
        base.recipe,
        model=dataclasses.replace(tiny_config(SIDE), smallest_part=20),
        size=SIDE,
        trainable=trainable,
        conversations=1,
        length=288,
        imitation=0.0,
        alignment=0.0,
    )
    options = dataclasses.replace(
        base.options, steps=1500, batch_size=8, learning_rate=4e-4, warmup_steps=50, slow=("llama", "projector"),
        slow_rate=0.25,
    )  # fmt: skip
    return dataclasses.replace(base, name="gsva_tiny_fine", recipe=recipe, options=options, starts_from=("gsva_tiny",))
