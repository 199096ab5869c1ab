"""Tiny GELLA, the language model learns to describe scenes and to name nouns, without masks (docs/tiny.md).

    gella train gella_tiny_words --init GSVA_TINY

It begins with the language model and the CLIP of the shipped `gsva-tiny`, gsva_jax/assets/tiny.
"""

from gella_jax.tiny.answering import SceneRecipe
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions


def get_config() -> Experiment:
    """CLIP is frozen."""
    recipe = SceneRecipe(("llama", "projector", "association/text"), masks=False, imitation=1.0)
    options = TrainOptions(
        steps=900, batch_size=8, learning_rate=1e-3, final_rate=0.05, warmup_steps=50, save_every=250, pictures=0
    )
    return Experiment(name="gella_tiny_words", recipe=recipe, options=options)
