"""The smallest training that has a config, for tests of what surrounds a training."""

from pathlib import Path

CONFIG = """
import dataclasses
from grounding_jax.training.experiment import Experiment
from gsva_jax.training.experiment import load_config

def get_config():
    base = load_config("gsva_tiny_eyes")
    sizes = base.recipe.model
    clip = dataclasses.replace(sizes.clip, image_size=16, width=8, hidden=8, layers=1, heads=1)
    recipe = dataclasses.replace(base.recipe, model=dataclasses.replace(sizes, clip=clip), size=48)
    options = dataclasses.replace(base.options, steps=3, batch_size=2, warmup_steps=1, log_every=1)
    return Experiment("small", recipe, options)
"""


def write_config(folder: Path) -> Path:
    """Writes the config "small" to a folder: 3 updates of 2 scenes."""
    file = folder / "small.py"
    file.write_text(CONFIG)
    return file
