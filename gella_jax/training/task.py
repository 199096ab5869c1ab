"""Training GELLA as the paper did (spec gella b, c): the task, on any mixture of tasks and datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import grain
import jax
import jax.numpy as jnp
import numpy as np

from gella_jax import losses, model
from gella_jax.config import GellaConfig
from gella_jax.losses import LossWeights
from gella_jax.sharding import table
from gella_jax.training import validation
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.sharding.rules import Rule
from grounding_jax.training.language import LanguageTask

Examples = Callable[[int], grain.MapDataset]  # of a seed

PARTS = ("llama", "clip", "projector", "backbone", "blend", "mask2former", "association")


@dataclasses.dataclass(frozen=True)
class GellaTask(LanguageTask):
    """GELLA learns to describe pictures, to name nouns, and to say which entities they mean.

    Attributes:
        model: sizes; its LoRA dropout is applied.
        tokenizer: the vocabulary.
        data: gives the examples for a seed, as dicts of arrays: see `model.forward` and `losses.batch_loss`.
        weights: weights of the losses.
        dtype: precision of the computation.
        trainable, export_keys, best_metric: see `Task`.
        new_rows_only: only the rows of [SEG] learn of the vocabulary.
        validation: gives the examples of the validation; None: there is none.
        fresh: parts that are drawn anew, whatever the start has.
        token_rows: see `LanguageTask`.
    """

    model: GellaConfig
    tokenizer: Tokenizer
    data: Examples
    weights: LossWeights
    trainable: tuple[str, ...]
    dtype: str = "bfloat16"
    new_rows_only: bool = True
    validation: Examples | None = None
    export_keys: tuple[str, ...] = PARTS
    fresh: tuple[str, ...] = ()
    best_metric: str = ""
    token_rows: tuple[int, ...] = ()

    def init(self, key: jax.Array) -> dict:
        """A random model."""
        return model.init(self.padded_model, key)

    def import_params(self, params: dict) -> dict:
        """See `LanguageTask`; without the parts that are drawn anew."""
        return super().import_params({name: part for name, part in params.items() if name not in self.fresh})

    def sharding(self) -> tuple[Rule, ...]:
        """The table of the model."""
        return table(self.model)

    def examples(self, seed: int) -> grain.MapDataset:
        """Those of the mixture."""
        return self.data(seed)

    def validation_dataset(self) -> grain.MapDataset | None:
        """Always the same examples."""
        return self.validation(0) if self.validation else None

    def measure(self, params: dict, batch: dict) -> tuple[validation.Sums, dict[str, jax.Array]]:
        """See `validation.measure`."""
        outputs = model.forward(self.model, params, batch, jnp.dtype(self.dtype))
        return validation.measure(outputs, batch)

    def draw(self, example: dict, shown: dict) -> np.ndarray:
        """See `validation.draw`."""
        return validation.draw(self.model, self.tokenizer, example, shown)

    def prepare(self, batch: dict) -> dict:
        """What the sums of each picture are multiplied with."""
        return losses.prepare(self.weights, batch, self.model.mask2former.queries)

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The paper's loss and its terms."""
        keys = jax.vmap(lambda example: jax.random.split(jax.random.fold_in(key, example), 3))(batch["example"])
        points, dropout, drop_path = jnp.moveaxis(keys, 1, 0)
        if self.new_rows_only and "llama" in params:
            params = {**params, "llama": learning_rows(params["llama"], self.tokenizer.seg)}
        dropping = dict(dropout_keys=dropout if self.model.llama.lora_dropout else None, drop_path_keys=drop_path)
        outputs = model.forward(self.model, params, batch, jnp.dtype(self.dtype), **dropping)
        return losses.batch_loss(self.weights, outputs, batch, points)[:2]


def learning_rows(llama: dict, ids: tuple[int, ...]) -> dict:
    """LLaMA's parameters with a vocabulary in which no gradient reaches the rows of other tokens."""
    embedding, kernel = llama["embed"]["embedding"], llama["head"]["kernel"]
    rows = jnp.isin(jnp.arange(len(embedding)), jnp.array(ids))

    def held(array: jax.Array, learns: jax.Array) -> jax.Array:
        return jnp.where(learns, array, jax.lax.stop_gradient(array))

    return {
        **llama,
        "embed": {"embedding": held(embedding, rows[:, None])},
        "head": {"kernel": held(kernel, rows)},
    }
