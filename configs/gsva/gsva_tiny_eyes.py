"""Tiny GSVA, second lesson of two: the vision tower learns what is where, and how it compares (docs/tiny.md)."""

from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions
from gsva_jax.tiny.pretraining import EyePretraining
from gsva_jax.tiny.vocabulary import tiny_config


def get_config() -> Experiment:
    """80,000 scenes; the shipped model had 32,000 in an earlier sitting, see docs/tiny.md."""
    return Experiment(
        name="gsva_tiny_eyes",
        recipe=EyePretraining(tiny_config()),
        options=TrainOptions(steps=5000, batch_size=16, learning_rate=1.2e-3, final_rate=0.02),
    )
