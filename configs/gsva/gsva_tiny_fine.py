"""Tiny GSVA, the shipped model: goes on with pictures and masks of twice the resolution (docs/tiny.md)."""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.tiny.vocabulary import tiny_config
from gsva_jax.training.experiment import load_config

SIDE = 288  # of the scenes: the frame of its SAM, whose grid has 36 x 36 patches


def get_config() -> Experiment:
    """Ends where the model in the package begins."""
    base = load_config("gsva_tiny")
    trainable = ("prompt_mlp", "sam/mask_decoder", "sam/image_encoder", "projector", "llama")
    recipe = dataclasses.replace(
        base.recipe, model=tiny_config(SIDE), size=SIDE, trainable=trainable, conversations=1, length=288,
        imitation=0.0, alignment=0.0,
    )  # fmt: skip
    options = dataclasses.replace(
        base.options, steps=1500, batch_size=8, learning_rate=4e-4, warmup_steps=50, slow=("llama", "projector"),
        slow_rate=0.25,
    )  # fmt: skip
    return dataclasses.replace(base, name="gsva_tiny_fine", recipe=recipe, options=options, starts_from=("gsva_tiny",))
