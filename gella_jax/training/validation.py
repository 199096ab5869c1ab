"""How a GELLA does while it is trained: scores of examples it does not learn from, and pictures of its answers.

The right nouns stand before the model, as in training, and which masks it means by them is read off: one pass of one
shape, on any mesh. The published protocols are those of `gella evaluate`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from gella_jax import losses, matching, prompts
from gella_jax.config import GellaConfig
from gella_jax.matching import SegmentationWeights
from gella_jax.prompts import TEMPLATES
from gella_jax.results import Target
from grounding_jax.drawing.overlay import draw_overlay, side_by_side
from grounding_jax.language.rows import IGNORED
from grounding_jax.language.tokenizer import Tokenizer

Sums = dict[str, tuple[jax.Array, jax.Array]]


def measure(outputs: dict, batch: dict) -> tuple[Sums, dict[str, jax.Array]]:
    """Compares a forward pass with the truth.

    Args:
        outputs: outputs of `model.forward`.
        batch: see `losses.batch_loss`.

    Returns:
        Sum and count of ``AR`` (of each noun that means something, the IoU of the masks that are above .5, or of the
        best one where none is, with those that it means), ``absent`` (absent nouns of which no mask is above .5),
        ``mask_IoU`` (of every mask with what is decoded of its query) and ``tokens`` (of the answer, right). And of
        each row ``chosen`` bool ``[B, M, E]``, the masks that each noun means to the model; of masks alone ``found``
        int32 ``[B, h, w]``, the number of the mask that is found at a place, from 1, or 0.
    """
    entities, visible, index = outputs["entities"].last, batch["visible"], batch["index"]
    targets = matching.entity_targets(index, visible)
    masks = matching.some_masks(targets, jnp.arange(visible.shape[1]))
    queries = matching.match(SegmentationWeights(), entities, targets)
    decoded = jnp.take_along_axis(entities.mask_logits, jnp.maximum(queries, 0)[..., None, None], axis=1)
    decoded = jnp.where((queries >= 0)[..., None, None], decoded, -jnp.inf)
    sums = {"mask_IoU": _mask_iou(decoded > 0, masks, visible)}
    if "association" not in outputs:
        return sums, {"found": jnp.where((decoded > 0).any(1), decoded.argmax(1) + 1, 0)}
    area = masks.sum((2, 3), dtype=jnp.float32)
    logits = jnp.take_along_axis(outputs["association"], jnp.maximum(queries, 0)[:, None], axis=2)
    logits = jnp.where((queries >= 0)[:, None], logits, -jnp.inf)
    above = logits > 0
    best = jnp.arange(logits.shape[2]) == logits.argmax(2)[..., None]
    chosen = jnp.where(above.any(2)[..., None], above, best & jnp.isfinite(logits))
    meant = batch["meant"] & visible[:, None]
    intersection, union = ((one * area[:, None]).sum(2) for one in (chosen & meant, chosen | meant))
    told = losses.told_nouns(batch) & ~batch["absent"]
    sums |= {
        "AR": _over(intersection / jnp.maximum(union, 1), told),
        "absent": _over(~above.any(2), batch["absent"]),
    }
    if "logits" in outputs:
        learned = batch["labels"] != IGNORED
        sums["tokens"] = _over(outputs["logits"].argmax(-1) == batch["labels"], learned)
    return sums, {"chosen": chosen}


def _over(values: jax.Array, counted: jax.Array) -> tuple[jax.Array, jax.Array]:
    return jnp.where(counted, values, 0.0).sum(), counted.sum()


def _mask_iou(found: jax.Array, masks: jax.Array, visible: jax.Array) -> tuple[jax.Array, jax.Array]:
    """IoU of decoded masks, bool ``[B, E, h, w]``, at their resolution, with bool ``[B, E, S, S]``."""
    h, w = found.shape[2:]
    rows, columns = (((np.arange(n) + 0.5) * S / n).astype(int) for n, S in zip((h, w), masks.shape[2:], strict=True))
    truth = masks[:, :, rows[:, None], columns]
    intersection, union = (one.sum((2, 3)) for one in (found & truth, found | truth))
    return _over(intersection / jnp.maximum(union, 1), visible)


def draw(config: GellaConfig, tokenizer: Tokenizer, example: dict, shown: dict) -> np.ndarray:
    """What each noun means beside what the model means by it; of masks alone, the colormap beside what is found.

    Args:
        config: sizes.
        tokenizer: the vocabulary.
        example: as NumPy arrays.
        shown: arrays that `measure` gave for it.

    Returns:
        uint8 ``[H, W, 3]``; a picture is of the size that CLIP takes.
    """
    if "found" in shown:
        return _draw_found(example["colormaps"], example["index"], shown["found"])
    h, w = example["clip_resized"]
    image = example["clip_images"][:h, :w]
    S = config.side
    scale = S / max(h, w)
    rows, columns = (np.minimum(((np.arange(n) + 0.5) * scale).astype(int), S - 1) for n in (h, w))
    index = example["index"][rows[:, None], columns]
    separator = TEMPLATES[config.template].separator
    texts = [tokenizer.decode(example["ids"][example["branch"] == n]) for n in range(1, example["branch"].max() + 1)]
    names = [name for text in texts for name in prompts.read_nouns(text.rpartition(separator)[2])]

    def drawn(table: np.ndarray) -> list[Target]:
        masks = [np.isin(index, np.flatnonzero(row) + 1) for row in table]
        return [Target(name, mask, 1.0, not mask.any()) for name, mask in zip(names, masks, strict=False)]

    titled = (("true", drawn(example["meant"])), ("predicted", drawn(shown["chosen"])))
    return side_by_side([draw_overlay(image, targets, [title]) for title, targets in titled])


def _draw_found(colormap: np.ndarray, index: np.ndarray, found: np.ndarray) -> np.ndarray:
    """A colormap uint8 ``[S, S, 3]`` of int ``[S, S]`` beside int ``[h, w]`` in the same colours."""
    numbers, first = np.unique(index, return_index=True)
    colours = np.zeros((max(index.max(), found.max()) + 1, 3), np.uint8)
    colours[numbers] = colormap.reshape(-1, 3)[first]
    rows, columns = (np.arange(S) * n // S for S, n in zip(index.shape, found.shape, strict=True))
    return side_by_side([colormap, colours[found[rows[:, None], columns]]])
