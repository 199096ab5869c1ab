"""How GSVA does while it is trained: scores of examples it does not learn from, and pictures of its masks.

The right answer stands before the model, as in training, and the choice of [SEG] or [REJ] is read off: one pass of one
shape, on any mesh. The published protocols are those of `gsva evaluate`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from grounding_jax.drawing.overlay import draw_overlay, side_by_side
from grounding_jax.language.answers import phrases
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import llama
from grounding_jax.models.mask_resize import mask_matrices, resize_masks
from gsva_jax import losses, model
from gsva_jax.config import GsvaConfig
from gsva_jax.predict import Target
from gsva_jax.prompts import TEMPLATES

Sums = dict[str, tuple[jax.Array, jax.Array]]


def measure(
    config: GsvaConfig, tokenizer: Tokenizer, params: dict, outputs: dict, batch: dict
) -> tuple[Sums, dict[str, jax.Array]]:
    """Compares a forward pass with the truth.

    Args:
        config: sizes.
        tokenizer: the vocabulary.
        params: the whole tree.
        outputs: outputs of `model.forward`.
        batch: see `task.batch_loss`.

    Returns:
        Sum and count of ``gIoU`` (the IoU of a target, 0 if it was refused; an absent one counts 1 if it was refused),
        ``cIoU`` (intersections over unions of those that are there), ``N_acc`` and ``T_acc``. And of each row the
        low-resolution ``masks`` ``[B, M, l, l]`` and ``scores`` ``[B, M]``, the probabilities of [SEG].
    """
    states = model.gather(outputs["hidden"], batch["seg_positions"])
    scores = model.seg_probability(tokenizer, llama.logits(config.llama, params["llama"], states))
    refused, absent, valid = scores < 0.5, batch["target_rejected"], batch["target_valid"]
    there = valid & ~absent
    masks = jnp.where(refused[..., None, None], -1.0, outputs["masks"])
    intersection, union = losses.overlaps(masks, *losses.resizing(config.sam, batch), batch["masks"])

    def over(values: jax.Array, counted: jax.Array, weights: jax.Array | float = 1.0) -> tuple[jax.Array, jax.Array]:
        return jnp.where(counted, values, 0.0).sum(), jnp.where(counted, weights, 0.0).sum()

    sums = {
        "gIoU": over(jnp.where(absent, refused, intersection / jnp.maximum(union, 1)), valid),
        "cIoU": over(intersection, there, union),
        "N_acc": over(refused, valid & absent),
        "T_acc": over(~refused, there),
    }
    return sums, {"masks": masks, "scores": scores}


def draw(config: GsvaConfig, tokenizer: Tokenizer, example: dict, shown: dict) -> np.ndarray:
    """The true masks beside the predicted ones.

    Args:
        config: sizes.
        tokenizer: the vocabulary.
        example: that has ``sam_images``, as NumPy arrays.
        shown: arrays that `measure` gave for it. An absent target has no predicted mask, even if it was accepted.

    Returns:
        uint8 ``[H, W, 3]``.
    """
    (h, w), (H, W) = example["resized"], example["original"]
    image = np.asarray(Image.fromarray(example["sam_images"][:h, :w]).resize((W, H), Image.Resampling.BICUBIC))
    masks = np.unpackbits(example["masks"], axis=-1)[:, :H, :W].astype(bool)
    low = resize_masks(shown["masks"], *mask_matrices(config.sam.low_res, config.sam.image_size, (h, w), (H, W)))
    separator = TEMPLATES[config.template].separator
    texts = [tokenizer.decode(example["ids"][example["branch"] == n]) for n in range(1, example["branch"].max() + 1)]
    names = [name for text in texts for name in phrases(text.rpartition(separator)[2])]
    true, predicted = [], []
    for j in np.flatnonzero(example["target_valid"]):
        name = names[j] if j < len(names) else f"target {j + 1}"
        score = float(shown["scores"][j])
        true.append(Target(name, bool(example["target_rejected"][j]), masks[j], 1.0))
        predicted.append(Target(name, score < 0.5, low[j] > 0, score))
    titled = (("true", true), ("predicted", predicted))
    return side_by_side([draw_overlay(image, targets, [title]) for title, targets in titled])
