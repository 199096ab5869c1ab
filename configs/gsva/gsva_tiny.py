"""Tiny GSVA, the shipped model: everything is trained together, the encoders at half the rate (docs/tiny.md)."""

from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions
from gsva_jax.losses import LossWeights
from gsva_jax.tiny.answering import Answering
from gsva_jax.tiny.vocabulary import tiny_config


def get_config() -> Experiment:
    """Ends where `gsva-tiny` begins."""
    encoders = ("clip", "sam/image_encoder")
    recipe = Answering(
        tiny_config(),
        trainable=("llama", "projector", "prompt_mlp", "sam/mask_decoder", *encoders),
        conversations=2,
        length=384,
        max_masks=4,
        weights=LossWeights(dice=1.0),
        imitation=1.0,
        alignment=0.1,
    )
    return Experiment(
        name="gsva_tiny",
        recipe=recipe,
        options=TrainOptions(
            steps=1600, batch_size=16, learning_rate=8e-4, final_rate=0.02, slow=encoders, slow_rate=0.5
        ),
        starts_from=("gsva_tiny_eyes", "gsva_tiny_masks", "gsva_tiny_words"),
        result_dtype="bfloat16",
    )
