"""Tiny GELLA, last lesson: masks and words meet (docs/tiny.md, which says how the shipped model was made)."""

from gella_jax.tiny.answering import SceneRecipe
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions


def get_config() -> Experiment:
    """Everything but CLIP is trained together."""
    trainable = ("llama", "projector", "backbone", "blend", "mask2former", "association")
    return Experiment(
        name="gella_tiny",
        recipe=SceneRecipe(trainable, imitation=1.0),
        options=TrainOptions(
            steps=900, batch_size=16, learning_rate=8e-4, final_rate=0.02, warmup_steps=50, save_every=250, pictures=0
        ),
        starts_from=("gella_tiny_masks", "gella_tiny_words"),
        result_dtype="bfloat16",
    )
