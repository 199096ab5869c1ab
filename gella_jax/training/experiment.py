"""What GELLA's experiments are made of: its recipes, by the names that run folders have for them, and its configs."""

from __future__ import annotations

from etils import epath

from gella_jax.config import ASSETS
from gella_jax.tiny.answering import SceneRecipe
from gella_jax.tiny.finding import MaskFinding
from gella_jax.tiny.pretraining import QueryPretraining
from gella_jax.training.recipe import GellaRecipe
from grounding_jax.training import experiment
from grounding_jax.training.experiment import Experiment, System

RECIPES = {
    "gella": GellaRecipe,
    "gella_tiny_masks": QueryPretraining,
    "gella_tiny": SceneRecipe,
    "gella_tiny_finder": MaskFinding,
}

GELLA = System("gella", RECIPES, ASSETS)


def load_config(name: epath.PathLike) -> Experiment:
    """The experiment of a config file, or of one of ours by its bare name; see `experiment.load_config`."""
    return experiment.load_config(GELLA, name)
