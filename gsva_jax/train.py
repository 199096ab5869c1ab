"""Training GSVA as the paper did (spec gsva e): the task that the loop trains, on any mixture of datasets."""

from __future__ import annotations

import dataclasses
from typing import Literal

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh

from grounding_jax.data.datasets import open_dataset
from grounding_jax.language.tokenizer import Tokenizer, with_targets
from grounding_jax.models import llama
from grounding_jax.sharding.rules import Rule
from grounding_jax.training.log import Work
from grounding_jax.training.options import TrainOptions
from grounding_jax.weights.fresh import moved_vocabulary
from gsva_jax import losses, model, validation
from gsva_jax.config import GsvaConfig
from gsva_jax.features import FeatureFiles, fill
from gsva_jax.flops import training_flops
from gsva_jax.losses import LossWeights
from gsva_jax.mixture import PAPER, Family, Mixture
from gsva_jax.sharding import table

VOCABULARY_MULTIPLE = 128

# What the paper trains (spec gsva e): LoRA, embeddings, head, SAM's mask decoder, the MLP to its prompts.
TRAINED = ("llama/layers/attn/[qv]/lora_", "llama/embed", "llama/head", "sam/mask_decoder", "prompt_mlp")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How GSVA is trained, whatever its size: what a config says and the command line may change.

    Attributes:
        data: the folder of all datasets, see docs/data.md.
        families: what is mixed, see `mixture.Mixture`.
        validation: the dataset that tells how it does, see `validation.measure`; empty: none.
        epochs: over the one dataset of a finetuning; sets the number of updates. 0 leaves that to the options.
        max_targets: M, the most targets of a picture.
        length: T, slots of a row.
        canvas: side of the masks in the loss.
        negative_share: of classes that are asked for though they are not there, see `samplers.sample_classes`.
        count_rejected: see `LossWeights`.
        loss_group: see `LossWeights`.
        cache_image_features: a folder for SAM's features of all pictures, which are then computed once and not in every
            step: the same numbers. Empty: no cache.
        lora_dropout: of the inputs of the low-rank updates.
        remat: what is computed again in the backward pass, see `LlamaConfig`.
        dtype: of the computation.
        trainable: regular expressions on parameter paths of what is trained.
        tokens: of targets, which the vocabulary gets in the place of those of the start; empty: it has them already.
    """

    data: str = "data"
    families: tyro.conf.Suppress[tuple[Family, ...]] = PAPER
    validation: str = "grefcoco|unc|val"
    epochs: int = 0
    max_targets: int = 5
    length: int = 1024
    canvas: int = 1024
    negative_share: float = 0.0
    count_rejected: bool = True
    loss_group: int = 2
    cache_image_features: str = ""
    lora_dropout: float = 0.05
    remat: Literal["none", "full"] = "full"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    trainable: tyro.conf.Suppress[tuple[str, ...]] = TRAINED
    tokens: tyro.conf.Suppress[tuple[str, ...]] = ()

    def steps(self, options: TrainOptions) -> int:
        """Updates in all.

        Raises:
            ValueError: epochs are asked for, but there are several datasets.
            FileNotFoundError: the dataset is not there.
        """
        if not self.epochs:
            return options.steps
        names = [name for family in self.families for name in family.datasets]
        if len(names) != 1:
            raise ValueError(f"epochs are of one dataset, but there are {', '.join(names)}: give --steps instead")
        return -(-self.epochs * len(open_dataset(self.data, names[0])) // options.batch_size)

    def task(self, model: GsvaConfig, tokenizer: Tokenizer, digest: str = "") -> Training:
        """The recipe for a model; the digest tells its image features from those of others."""
        changes, rows = dict(lora_dropout=self.lora_dropout, remat=self.remat), ()
        if self.tokens:
            tokenizer, rows = with_targets(tokenizer, self.tokens)
            changes["vocab_size"] = tokenizer.vocab_size
        model = dataclasses.replace(model, llama=dataclasses.replace(model.llama, **changes))
        cache = self.cache_image_features
        mixture = Mixture(
            self.data,
            model,
            tokenizer,
            self.families,
            self.max_targets,
            self.length,
            self.canvas,
            self.negative_share,
            FeatureFiles(cache, digest, self.dtype) if cache else None,
        )
        weights = LossWeights(loss_group=self.loss_group, count_rejected=self.count_rejected)
        return Training(model, tokenizer, mixture, weights, self.dtype, self.trainable, self.validation, rows=rows)


@dataclasses.dataclass(frozen=True)
class Training:
    """GSVA learns to answer on a mixture of datasets; see `loop.Task`.

    Attributes:
        model: sizes; its LoRA dropout is applied.
        tokenizer: the vocabulary.
        data: gives the examples for a seed, as dicts of arrays: see `batch_loss` and `model.forward`.
        weights: of the loss terms.
        dtype: of the computation.
        trainable, kept, judged_by: see `loop.Task`.
        judge: the dataset of the validation; empty: none.
        rows: where the tokens are in the vocabulary of the start, see `tokenizer.with_targets`; empty: in their places.
    """

    model: GsvaConfig
    tokenizer: Tokenizer
    data: Mixture
    weights: LossWeights = LossWeights()
    dtype: str = "bfloat16"
    trainable: tuple[str, ...] = TRAINED
    judge: str = ""
    kept: tuple[str, ...] = ("llama", "clip", "projector", "prompt_mlp", "sam")
    rows: tuple[int, ...] = ()
    judged_by: str = "gIoU"

    @property
    def padded_vocabulary(self) -> int:
        """Rows of the embedding in training: a multiple that meshes divide. Model folders have the true number."""
        return -(-self.model.llama.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE

    def init(self, key: jax.Array) -> dict:
        """A random model."""
        padded = dataclasses.replace(self.model.llama, vocab_size=self.padded_vocabulary)
        return model.init(dataclasses.replace(self.model, llama=padded), key)

    def load(self, params: dict) -> dict:
        """The parameters of a model folder, which may have only some parts, as they are trained."""
        if self.rows and "llama" in params:
            params = {**params, "llama": moved_vocabulary(params["llama"], self.rows)}
        return self._resized(params, self.padded_vocabulary)

    def unload(self, params: dict) -> dict:
        """What was trained, as a model folder has it: without the padding of the vocabulary."""
        return self._resized(params, self.model.llama.vocab_size)

    def _resized(self, params: dict, vocab_size: int) -> dict:
        parts = {"llama": llama.resize_vocabulary(params["llama"], vocab_size)} if "llama" in params else {}
        return {**params, **parts}

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

    def ready(self, params: dict, mesh: Mesh) -> None:
        """Fills the cache of image features."""
        if self.data.features:
            fill(self.data.features, self.model, params, mesh, self.data.pictures())

    def validation(self) -> grain.MapDataset | None:
        """Examples of the dataset that judges, always the same, with their pictures.

        Raises:
            FileNotFoundError: it is not there.
        """
        if not self.judge:
            return None
        judge = dataclasses.replace(self.data, families=(Family(1, (self.judge,)),), features=None, negative_share=0.0)
        try:
            return judge(seed=0)
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
        weights: of the terms.
        outputs: of `model.forward`.
        batch: what `losses.prepare` gave: row arrays, ``resized`` and ``original`` int32 ``[B, 2]``, and ``masks``
            uint8 ``[B, M, canvas, canvas / 8]``, bit-packed.
        token_weight: see `losses.cross_entropy`.

    Returns:
        ``(loss, {"ce", "bce", "dice", "mask"})``.
    """
    bce, dice = losses.resized_mask_terms(outputs["masks"], *losses.resizing(config.sam, batch), batch["masks"])
    ce = losses.cross_entropy(outputs["logits"], batch["labels"], token_weight)
    return losses.total(weights, ce, bce, dice, batch)
