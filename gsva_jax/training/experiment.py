"""What GSVA's experiments are made of: its recipes, by the names that run folders have for them, and its configs."""

from __future__ import annotations

from etils import epath

from grounding_jax.training import experiment
from grounding_jax.training.experiment import Experiment, System
from gsva_jax.config import ASSETS
from gsva_jax.tiny.answering import Answering
from gsva_jax.tiny.pretraining import EyePretraining, MaskPretraining
from gsva_jax.training.recipe import GsvaRecipe

RECIPES = {
    "gsva": GsvaRecipe,
    "gsva_tiny_eyes": EyePretraining,
    "gsva_tiny_masks": MaskPretraining,
    "gsva_tiny_answers": Answering,
}

GSVA = System("gsva", RECIPES, ASSETS)


def load_config(name: epath.PathLike) -> Experiment:
    """The experiment of a config file, or of one of ours by its bare name; see `experiment.load_config`."""
    return experiment.load_config(GSVA, name)
