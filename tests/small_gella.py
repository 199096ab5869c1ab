"""A GELLA of random weights that fits into a test: vocabulary, model, training, and a picture with masks."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import jax
import numpy as np

from gella_jax import model, prompts
from gella_jax.association import AssociationConfig
from gella_jax.config import GellaConfig
from gella_jax.data.mixture import Family
from gella_jax.engine import make_engine
from gella_jax.losses import LossWeights
from gella_jax.matching import SegmentationWeights
from gella_jax.predict import Gella
from gella_jax.resoblend import ResoBlendConfig
from gella_jax.training.recipe import GellaRecipe
from gella_jax.training.task import GellaTask
from grounding_jax.language import tokenizer
from grounding_jax.language.tokenizer import SEG_TEXT, Tokenizer
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.swin import SwinConfig

CHANNELS = (16, 32, 64, 128)
CAPTION = "A dog and two cats lie on the couch."


@functools.cache
def small_tokenizer() -> Tokenizer:
    """Every word of the prompts and of `CAPTION` is a token."""
    rounds = [(prompts.nouns_question(CAPTION), prompts.nouns_answer(["A dog", "two cats", "the couch"]))]
    return tokenizer.train([prompts.TEMPLATES["plain"].conversation(rounds), "one three four five"], (SEG_TEXT,))


def small_config(**changes) -> GellaConfig:
    """Sizes in which one compiled pass takes a second or two."""
    parts = dict(
        llama=LlamaConfig(
            vocab_size=small_tokenizer().vocab_size, width=32, hidden=48, layers=2, heads=2, kv_heads=2, eps=1e-5
        ),
        clip=ClipConfig(image_size=28, patch_size=14, width=32, hidden=64, layers=2, heads=2),
        backbone=SwinConfig(width=16, depths=(1, 1, 1, 1), heads=(1, 2, 4, 8), window=4),
        blend=ResoBlendConfig.skip(CHANNELS, image_width=32, width=16, hidden=32, heads=2),
        mask2former=Mask2FormerConfig.entity(
            channels=CHANNELS, queries=6, width=32, heads=2, encoder_layers=1, encoder_hidden=32, decoder_layers=3,
            decoder_hidden=32,
        ),
        association=AssociationConfig(text_width=32, query_width=32, width=16),
        side=64,
        template="plain",
        model_max_length=4096,
    )  # fmt: skip
    return GellaConfig(**{**parts, **changes})


@functools.cache
def small_params() -> dict:
    """Random parameters, drawn on the host: to compile what `model.init` draws takes half a minute."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda key: model.init(small_config(), key), jax.random.key(0))

    def draw(path, leaf) -> np.ndarray:
        if path[-1].key == "scale":
            return np.ones(leaf.shape, np.float32)
        fan_in = leaf.shape[-2] if len(leaf.shape) > 1 else 25
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def small_task(root: Path, **changes) -> GellaTask:
    """Its training on the narratives of `small_panoptic`, some as descriptions without any masks."""
    png = ("png|val2017",)
    recipe = GellaRecipe(
        data=str(root),
        families=(Family(0.4, "describe", png), Family(0.6, "ground", png)),
        validation="",
        max_nouns=8,
        length=500,
        ungrounded="negative",
        remat="none",
        dtype="float32",
        weights=LossWeights(terms=SegmentationWeights(points=16)),
    )
    config = small_config()
    config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora_rank=2))
    return dataclasses.replace(recipe, **changes).task_for(config, small_tokenizer())


@functools.cache
def small_gella() -> Gella:
    """The model."""
    return Gella(make_engine(small_config(), small_params(), small_tokenizer()))


def small_picture(seed: int = 0, size: tuple[int, int] = (50, 70)) -> tuple[np.ndarray, np.ndarray]:
    """A picture uint8 ``[H, W, 3]`` and four masks bool ``[4, H, W]``, two of which overlap."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((4, *size), bool)
    masks[0, :20, :30], masks[1, 10:30, 20:50], masks[2, 30:, :25], masks[3, 35:, 40:] = True, True, True, True
    return rng.integers(0, 256, (*size, 3), np.uint8), masks
