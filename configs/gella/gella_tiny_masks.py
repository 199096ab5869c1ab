"""Tiny GELLA, the mask branch learns to find masks again and what its queries are to tell (docs/tiny.md).

    gella train gella_tiny_masks --init GSVA_TINY

GSVA_TINY is the model folder of the shipped `gsva-tiny`, gsva_jax/assets/tiny: CLIP is its.
"""

from gella_jax.tiny.pretraining import QueryPretraining
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions


def get_config() -> Experiment:
    """Scenes are made on the fly."""
    return Experiment(
        name="gella_tiny_masks",
        recipe=QueryPretraining(),
        options=TrainOptions(
            steps=3000, batch_size=16, learning_rate=1e-3, final_rate=0.05, warmup_steps=50, save_every=250, pictures=0
        ),
    )
