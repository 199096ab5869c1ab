"""Tiny GELLA, its mask finder: a class-agnostic Mask2Former learns to cut scenes into entities (docs/tiny.md).

gella train gella_tiny_finder
"""

from gella_jax.tiny.finding import MaskFinding
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions


def get_config() -> Experiment:
    """Scenes are made on the fly."""
    options = TrainOptions(
        steps=4000, batch_size=16, learning_rate=1e-3, final_rate=0.02, warmup_steps=50, save_every=250, pictures=0
    )
    return Experiment(name="gella_tiny_finder", recipe=MaskFinding(), options=options, result_dtype="bfloat16")
