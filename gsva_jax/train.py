"""Training GSVA as the paper did (spec gsva e): the task that the loop trains, on any mixture of datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import grain
import jax
import jax.numpy as jnp

from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models.mask_resize import canvas_matrices
from grounding_jax.sharding.rules import Rule
from gsva_jax import losses, model
from gsva_jax.config import GsvaConfig
from gsva_jax.losses import LossWeights
from gsva_jax.sharding import table

# What the paper trains (spec gsva e): LoRA, embeddings, head, SAM's mask decoder, the MLP to its prompts.
TRAINED = ("llama/layers/attn/[qv]/lora_", "llama/embed", "llama/head", "sam/mask_decoder", "prompt_mlp")


@dataclasses.dataclass(frozen=True)
class Training:
    """GSVA learns to answer on a mixture of datasets; see `loop.Task`.

    Attributes:
        model: sizes; its LoRA dropout is applied.
        tokenizer: the vocabulary.
        data: gives the examples for a seed, as dicts of arrays: see `batch_loss` and `model.forward`.
        weights: of the loss terms.
        dtype: of the computation.
        trainable, kept: see `loop.Task`.
    """

    model: GsvaConfig
    tokenizer: Tokenizer
    data: Callable[[int], grain.MapDataset]
    weights: LossWeights = LossWeights()
    dtype: str = "bfloat16"
    trainable: tuple[str, ...] = TRAINED
    kept: tuple[str, ...] = ("llama", "clip", "projector", "prompt_mlp", "sam")

    def init(self, key: jax.Array) -> dict:
        """A random model."""
        return model.init(self.model, key)

    def sharding(self) -> tuple[Rule, ...]:
        """The table of the model."""
        return table(self.model)

    def examples(self, seed: int) -> grain.MapDataset:
        """Those of the mixture."""
        return self.data(seed)

    def prepare(self, batch: dict) -> dict:
        """Weights of the loss groups."""
        return losses.prepare(self.weights, batch)

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The paper's loss and its terms."""
        keys = None
        if self.model.llama.lora_dropout:
            keys = jax.vmap(lambda example: jax.random.fold_in(key, example))(batch["example"])
        outputs = model.forward(self.model, params, batch, jnp.dtype(self.dtype), keys)
        return batch_loss(self.model, self.weights, outputs, batch)


def batch_loss(
    config: GsvaConfig,
    weights: LossWeights,
    outputs: dict,
    batch: dict,
    token_weight: jax.Array | float = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a forward pass (spec gsva a.10, d).

    Args:
        config: sizes.
        weights: of the terms.
        outputs: of `model.forward`.
        batch: what `losses.prepare` gave: row arrays, ``resized`` and ``original`` int32 ``[B, 2]``, and ``masks``
            uint8 ``[B, M, canvas, canvas / 8]``, bit-packed.
        token_weight: see `losses.cross_entropy`.

    Returns:
        ``(loss, {"ce", "bce", "dice", "mask"})``.
    """
    low, frame, canvas = config.sam.low_res, config.sam.image_size, batch["masks"].shape[-2]

    def matrices(resized, original):
        return canvas_matrices(low, frame, canvas, resized, original)

    rows, columns, inside = jax.vmap(matrices)(batch["resized"], batch["original"])
    bce, dice = losses.resized_mask_terms(outputs["masks"], rows, columns, inside, batch["masks"])
    ce = losses.cross_entropy(outputs["logits"], batch["labels"], token_weight)
    return losses.total(weights, ce, bce, dice, batch)
