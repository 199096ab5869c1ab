"""Tiny GSVA, the language model learns to answer about what the trained eyes see (docs/tiny.md)."""

from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions
from gsva_jax.tiny.answering import Answering
from gsva_jax.tiny.vocabulary import tiny_config


def get_config() -> Experiment:
    """SAM is not even computed: the prompts for it imitate those that it was taught with. The tower is frozen."""
    recipe = Answering(
        tiny_config(),
        trainable=("llama", "projector", "prompt_mlp"),
        conversations=3,
        length=464,
        max_masks=0,
        imitation=3.0,
        alignment=1.0,
    )
    return Experiment(
        name="gsva_tiny_words",
        recipe=recipe,
        options=TrainOptions(steps=2200, batch_size=16, learning_rate=1.5e-3, final_rate=0.02),
        starts_from=("gsva_tiny_eyes", "gsva_tiny_masks"),
    )
