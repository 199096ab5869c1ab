"""Training GSVA as the paper did (spec gsva e): the task, on any mixture of datasets."""

from __future__ import annotations

import dataclasses

import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.sharding.rules import Rule
from grounding_jax.training.language import LanguageTask
from grounding_jax.training.losses import cross_entropy
from grounding_jax.training.task import Work
from gsva_jax import losses, model
from gsva_jax.config import GsvaConfig
from gsva_jax.data.features import fill
from gsva_jax.data.mixture import Family, Mixture
from gsva_jax.flops import training_flops
from gsva_jax.losses import LossWeights
from gsva_jax.sharding import table
from gsva_jax.training import validation

# What the paper trains (spec gsva e): LoRA, embeddings, head, SAM's mask decoder, the MLP to its prompts.
TRAINED = ("llama/layers/attn/[qv]/lora_", "llama/embed", "llama/head", "sam/mask_decoder", "prompt_mlp")


@dataclasses.dataclass(frozen=True)
class GsvaTask(LanguageTask):
    """GSVA learns to answer on a mixture of datasets.

    Attributes:
        model: sizes; its LoRA dropout is applied.
        tokenizer: the vocabulary.
        data: gives the examples for a seed, as dicts of arrays: see `batch_loss` and `model.forward`.
        weights: weights of the loss terms.
        dtype: precision of the computation.
        trainable, export_keys: see `Task`.
        validation: name of the dataset of the validation; empty: none.
        token_rows: row of each token in the vocabulary of the start, see `tokenizer.with_targets`; empty: its own.
    """

    model: GsvaConfig
    tokenizer: Tokenizer
    data: Mixture
    weights: LossWeights = LossWeights()
    dtype: str = "bfloat16"
    trainable: tuple[str, ...] = TRAINED
    validation: str = ""
    export_keys: tuple[str, ...] = ("llama", "clip", "projector", "prompt_mlp", "sam")
    token_rows: tuple[int, ...] = ()
    best_metric: str = "gIoU"

    def init(self, key: jax.Array) -> dict:
        """A random model."""
        return model.init(self.padded_model, key)

    def sharding(self) -> tuple[Rule, ...]:
        """The table of the model."""
        return table(self.model)

    def examples(self, seed: int) -> grain.MapDataset:
        """Those of the mixture."""
        return self.data(seed)

    def work(self) -> Work:
        """Of an example with all its targets."""
        sizes = self.data.length, self.data.max_targets
        return Work(self.data.length, training_flops(self.model, *sizes, bool(self.data.features)))

    def on_start(self, params: dict, mesh: Mesh) -> None:
        """Fills the cache of image features."""
        if self.data.features:
            fill(self.data.features, self.model, params, mesh, self.data.pictures())

    def validation_dataset(self) -> grain.MapDataset | None:
        """Examples of the dataset of the validation, always the same, with their pictures.

        Raises:
            FileNotFoundError: it is not there.
        """
        if not self.validation:
            return None
        families = (Family(1, (self.validation,)),)
        try:
            return dataclasses.replace(self.data, families=families, features=None, negative_share=0.0)(seed=0)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{error}. It is needed for validation; --validation '' does without") from None

    def measure(self, params: dict, batch: dict) -> tuple[validation.Sums, dict[str, jax.Array]]:
        """See `validation.measure`."""
        outputs = model.forward(self.model, params, batch, jnp.dtype(self.dtype))
        return validation.measure(self.model, self.tokenizer, params, outputs, batch)

    def draw(self, example: dict, shown: dict) -> np.ndarray:
        """See `validation.draw`."""
        return validation.draw(self.model, self.tokenizer, example, shown)

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
        weights: weights of the terms.
        outputs: outputs of `model.forward`.
        batch: the batch of `losses.prepare`: row arrays, ``resized`` and ``original`` int32 ``[B, 2]``, and ``masks``
            uint8 ``[B, M, canvas, canvas / 8]``, bit-packed.
        token_weight: see `training.losses.cross_entropy`.

    Returns:
        ``(loss, {"ce", "bce", "dice", "mask"})``.
    """
    bce, dice = losses.resized_mask_terms(outputs["masks"], *losses.resizing(config.sam, batch), batch["masks"])
    ce = cross_entropy(outputs["logits"], batch["labels"], token_weight)
    return losses.total(weights, ce, bce, dice, batch)
