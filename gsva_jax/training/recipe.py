"""How GSVA is trained, whatever its size, as data: what a config says and the command line may change."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from etils import epath
from tyro.conf import Suppress

from grounding_jax.data.datasets import open_dataset
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import Tokenizer, with_targets
from grounding_jax.training.options import LARGEST, TrainOptions, check_numbers
from grounding_jax.training.task import Recipe
from grounding_jax.weights import folder
from gsva_jax.config import ASSETS, GsvaConfig
from gsva_jax.data.features import FeatureFiles
from gsva_jax.data.mixture import PAPER, Family, Mixture
from gsva_jax.losses import LossWeights
from gsva_jax.training.task import TRAINED, GsvaTask


@dataclasses.dataclass(frozen=True)
class GsvaRecipe(Recipe):
    """GSVA on a mixture of datasets; model and vocabulary are those of the start. ValueError if a number can't be.

    Attributes:
        data: folder that holds all datasets, laid out as docs/data.md says.
        families: groups of datasets and their shares in the mixture, see `mixture.Mixture`.
        validation: dataset that is asked at each checkpoint to score it, such as "grefcoco|unc|val"; empty: none.
        epochs: passes over the dataset, for a finetuning on a single one; they set --steps. 0: --steps counts.
        max_targets: most targets (expressions with their masks) of a picture in one example, M; others are left out.
        length: tokens of an example, pictures included, T; shorter ones are padded.
        canvas: side in pixels of the square in which masks are compared with the truth; larger pictures are made to
            fit it.
        negative_share: share of the classes in a question about a semantic dataset that are asked for though the
            picture does not show them.
        count_rejected: count targets that are not in the picture when the mask losses are averaged, as the release
            does; they have no loss of their own.
        loss_group: consecutive examples whose tokens and masks are averaged together; divides the batch.
        cache_image_features: folder for SAM's features of all pictures, which are then computed once instead of in
            every step, with the same numbers. Empty: no cache.
        lora_dropout: probability that an input of the low-rank updates (LoRA) is dropped.
        remat: activations of a layer that are computed again in the backward pass: "full" is all of them, which
            saves memory, "none" is faster.
        dtype: precision of the computation; trained parameters are float32 in any case.
        trainable: regular expressions on parameter paths: these are trained, the rest stays as it is.
        tokens: words for targets that take the place of [SEG] and [REJ] in the vocabulary of the start; empty: it
            keeps its own.
    """

    data: str = "data"
    families: Suppress[tuple[Family, ...]] = PAPER
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
    trainable: Suppress[tuple[str, ...]] = TRAINED
    tokens: Suppress[tuple[str, ...]] = ()

    may_change: ClassVar[tuple[str, ...]] = ("validation",)

    def __post_init__(self):
        check_numbers(self, 1, LARGEST, "max_targets", "length", "canvas", "loss_group")
        check_numbers(self, 0, LARGEST, "epochs")
        check_numbers(self, 0, 1, "negative_share", "lora_dropout")

    def steps(self, options: TrainOptions) -> int:
        """Updates in all.

        Raises:
            ValueError: epochs are asked for, but there are several datasets.
            FileNotFoundError: the dataset is not there.
        """
        if not self.epochs:
            return options.steps
        names = self._trained_on()
        if len(names) != 1:
            raise ValueError(f"epochs are of one dataset, but there are {', '.join(names)}: give --steps instead")
        return -(-self.epochs * len(open_dataset(self.data, names[0])) // options.batch_size)

    def _trained_on(self) -> list[str]:
        return [name for family in self.families for name in family.datasets]

    def datasets(self) -> tuple[str, ...]:
        """Those of the mixture and of the validation."""
        return tuple(dict.fromkeys([*self._trained_on(), *([self.validation] if self.validation else [])]))

    def debugged(self) -> GsvaRecipe:
        """The same on the scenes in the package."""
        scenes = "grefcoco|unc|testA"
        fitting = dict(families=(Family(1, (scenes,)),), validation=scenes, epochs=0, length=384, canvas=320)
        return dataclasses.replace(self, data=str(ASSETS / "scenes"), dtype="float32", **fitting)

    def task(self, start: epath.Path | None) -> GsvaTask:
        """The task for the model of a folder.

        Raises:
            ValueError, FileNotFoundError: there is none to start from, or it can't be read.
        """
        if start is None:
            raise ValueError("this config starts from a model: make one with `gsva import` and give it with --init")
        digest = folder.digest(start) if self.cache_image_features else ""  # reads all weights
        return self.task_for(folder.read_config(GsvaConfig, start), tokenizers.load_tokenizer(start), digest)

    def task_for(self, model: GsvaConfig, tokenizer: Tokenizer, digest: str = "") -> GsvaTask:
        """The task for a model; the digest tells its image features, where they are cached, from those of others."""
        changes, token_rows = dict(lora_dropout=self.lora_dropout, remat=self.remat), ()
        if self.tokens:
            tokenizer, token_rows = with_targets(tokenizer, self.tokens)
            changes["vocab_size"] = tokenizer.vocab_size
        model = dataclasses.replace(model, llama=dataclasses.replace(model.llama, **changes))
        mixture = Mixture(
            self.data,
            model,
            tokenizer,
            self.families,
            self.max_targets,
            self.length,
            self.canvas,
            self.negative_share,
            FeatureFiles(self.cache_image_features, digest, self.dtype) if self.cache_image_features else None,
        )
        weights = LossWeights(loss_group=self.loss_group, count_rejected=self.count_rejected)
        names = dict(trainable=self.trainable, validation=self.validation, token_rows=token_rows)
        return GsvaTask(model, tokenizer, mixture, weights, self.dtype, **names)
