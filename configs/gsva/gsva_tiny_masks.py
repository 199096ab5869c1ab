"""Tiny GSVA, first lesson of two: SAM learns to cut out kinds and objects of scenes (docs/tiny.md)."""

from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions
from gsva_jax.tiny.pretraining import MaskPretraining
from gsva_jax.tiny.vocabulary import tiny_config


def get_config() -> Experiment:
    """32,000 scenes; the shipped model had 16,000 in an earlier sitting, see docs/tiny.md."""
    return Experiment(
        name="gsva_tiny_masks",
        recipe=MaskPretraining(tiny_config()),
        options=TrainOptions(steps=2000, batch_size=16, learning_rate=1.2e-3, final_rate=0.02),
    )
