"""How GELLA is trained, as data: what a config says and the command line may change (spec gella c)."""

from __future__ import annotations

import dataclasses
import functools
from typing import ClassVar, Literal

from etils import epath
from tyro.conf import Suppress

from gella_jax.config import ASSETS, BACKBONES, GellaConfig, architecture
from gella_jax.data.mixture import PAPER, Family, Mixture, task_of
from gella_jax.losses import LossWeights
from gella_jax.training.task import PARTS, GellaTask
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import TRUE_MASKS
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.training.options import LARGEST, TrainOptions, check_numbers
from grounding_jax.training.task import Recipe
from grounding_jax.weights import folder

# The running statistics of a MobileNet are constants.
MASK_BRANCH = (r"backbone/(?!.*/(mean|var)$)", "mask2former")
REST = ("blend", "association", "projector", "llama/embed", "llama/head")
LANGUAGE_MODEL = {
    "frozen": (),
    "lora": ("llama/layers/attn/[qv]/lora_",),
    "full": (r"llama/(?!.*/lora_[ab]$)",),
}


@dataclasses.dataclass(frozen=True)
class GellaRecipe(Recipe):
    """GELLA on a mixture of tasks; model and vocabulary are those of the start. ValueError if a number can't be.

    Attributes:
        data: folder that holds all datasets, laid out as docs/data.md says.
        families: tasks, their datasets and their shares in the mixture, see `mixture.Mixture`.
        validation: dataset that is asked at each checkpoint to score it, such as "png|val2017", with its own masks;
            empty: none.
        masks: source of the masks that are put in and found again in training: "truth" for those of the datasets, or a
            folder with STEM.png, STEM.json or a folder STEM for the picture STEM.jpg, or a json about all pictures. A
            noun means those that match a mask that it truly means, by an IoU of more than one half.
        epochs: passes over the datasets of the last task, in which others are mixed by their shares; they set --steps.
            0: --steps counts.
        llm: part of the language model that is trained: nothing ("frozen"), its low-rank updates ("lora"), or all.
            [SEG] is learned in any case.
        blend: wiring in which the picture and the colormap are blended, with fresh layers; "none": not at all, and
            entities are decoded from the colormap alone, without any text. Empty: as in the start.
        without: parts of ResoBlend that are switched off.
        colours: colours of the masks, drawn at random or by place. Empty: as in the start.
        association: layers before the dot products, fresh ones. Empty: as in the start.
        backbone: backbone that the start must have. Empty: any.
        clip_size: side in pixels of the pictures that the CLIP of the start must take. 0: any.
        max_nouns: most nouns of an example, M; records with more are passed over.
        length: tokens of an example, picture included, T; shorter ones are padded, records with more are passed over.
        ungrounded: nouns of a narrative that mean no mask: "ignore" does not teach them, "negative" teaches that they
            mean none.
        lora_dropout: probability that an input of the low-rank updates (LoRA) is dropped.
        remat: activations of a layer that are computed again in the backward pass: "full" is all of them, which saves
            memory, "none" is faster.
        dtype: precision of the computation; trained parameters are float32 in any case.
        weights: weights of the losses.
    """

    data: str = "data"
    families: Suppress[tuple[Family, ...]] = PAPER
    validation: str = "png|val2017"
    masks: str = TRUE_MASKS
    epochs: int = 50
    llm: Literal["frozen", "lora", "full"] = "lora"
    blend: Literal["", "paper", "skip", "mask_query", "literal", "none"] = ""
    without: tuple[Literal["sa", "ca", "ff", "res", "conv"], ...] = ()
    colours: Literal["", "random", "location"] = ""
    association: Literal["", "fc", "fc_relu_fc"] = ""
    backbone: Literal["", "swin_t", "swin_l", "mobilenet_v2"] = ""
    clip_size: int = 0
    max_nouns: int = 64
    length: int = 1280
    ungrounded: Literal["ignore", "negative"] = "ignore"
    lora_dropout: float = 0.05
    remat: Literal["none", "full"] = "full"
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    weights: Suppress[LossWeights] = LossWeights()

    may_change: ClassVar[tuple[str, ...]] = ("validation",)

    def __post_init__(self):
        check_numbers(self, 1, LARGEST, "max_nouns", "length")
        check_numbers(self, 0, LARGEST, "epochs", "clip_size")
        check_numbers(self, 0, 1, "lora_dropout")

    def steps(self, options: TrainOptions) -> int:
        """Updates in all.

        Raises:
            FileNotFoundError: a dataset that epochs are of is not there.
        """
        if not self.epochs:
            return options.steps
        last = self.families[-1]
        records = sum(len(open_dataset(self.data, name)) for name in last.datasets)
        share = last.rate / sum(family.rate for family in self.families)
        return -(-round(self.epochs * records / share) // options.batch_size)

    def datasets(self) -> tuple[str, ...]:
        """Those of the mixture and of the validation."""
        names = [name for family in self.families for name in family.datasets]
        return tuple(dict.fromkeys([*names, *([self.validation] if self.validation else [])]))

    def debugged(self) -> GellaRecipe:
        """The same on the scenes in the package, which have no RefCOCO: captions are asked for in its place."""
        scenes, of_task = ASSETS / "scenes", {"panoptic": "panoptic|val2017", "entities": "coco_entity|val2017"}
        families = tuple(
            Family(
                family.rate,
                "ground" if family.task == "refer" else family.task,
                (of_task.get(family.task, "png|val2017"),),
            )
            for family in self.families
        )
        fitting = dict(families=families, epochs=0, backbone="", clip_size=0, length=640)
        fitting["validation"] = of_task["entities"] if self.blend == "none" else "png|val2017"
        if self.masks != TRUE_MASKS:
            fitting["masks"] = str(scenes / "coco" / "annotations" / "panoptic_val2017")
        llm = "full" if self.llm == "lora" else self.llm  # the tiny model has no low-rank updates
        return dataclasses.replace(self, data=str(scenes), dtype="float32", llm=llm, **fitting)

    def task(self, start: epath.Path | None) -> GellaTask:
        """The task for the model of a folder.

        Raises:
            ValueError, FileNotFoundError: there is none to start from, it can't be read, or is not what is wanted.
        """
        if start is None:
            raise ValueError("this config starts from a model: make one with `gella import` and give it with --init")
        return self.task_for(folder.read_config(GellaConfig, start), tokenizers.load_tokenizer(start))

    def task_for(self, start: GellaConfig, tokenizer: Tokenizer) -> GellaTask:
        """The task for a model; ValueError if it is not what the recipe wants."""
        self._check(start)
        model = self._changed(start)
        mixture = functools.partial(Mixture, self.data, model, tokenizer, max_nouns=self.max_nouns, length=self.length)
        masks_alone = model.blend is None
        validation = mixture((Family(1, task_of(self.validation), (self.validation,)),)) if self.validation else None
        return GellaTask(
            model,
            tokenizer,
            mixture(self.families, ungrounded=self.ungrounded, masks=self.masks),
            self.weights,
            MASK_BRANCH if masks_alone else (*MASK_BRANCH, *REST, *LANGUAGE_MODEL[self.llm]),
            self.dtype,
            new_rows_only=self.llm != "full",
            validation=validation,
            export_keys=("backbone", "mask2former") if masks_alone else PARTS,
            fresh=self._fresh(start, model),
            best_metric="mask_IoU" if masks_alone else "AR",
        )

    def _check(self, start: GellaConfig) -> None:
        if self.backbone and architecture(start.backbone) != architecture(BACKBONES[self.backbone]):
            raise ValueError(
                f"this config wants the backbone {self.backbone}: name it to `gella import` with --backbone FILE, or "
                f"with --backbone-name {self.backbone} where --mask2former has it"
            )
        if self.clip_size and start.clip.image_size != self.clip_size:
            raise ValueError(
                f"this config wants a CLIP of {self.clip_size} pixels, but that of the start takes "
                f"{start.clip.image_size}: import another one with --vision-tower"
            )
        if self.llm == "lora" and self.blend != "none" and not start.llama.lora_rank:
            raise ValueError('the model of the start has no low-rank updates for llm "lora": import it with lora_r')

    def _changed(self, start: GellaConfig) -> GellaConfig:
        """The model that is trained."""
        model = start.rewired(self.blend, self.without, self.colours, self.association)
        return dataclasses.replace(
            model,
            llama=dataclasses.replace(start.llama, lora_dropout=self.lora_dropout, remat=self.remat),
            backbone=_with_remat(start.backbone, self.remat),
            mask2former=dataclasses.replace(start.mask2former, remat=self.remat),
        )

    def _fresh(self, start: GellaConfig, model: GellaConfig) -> tuple[str, ...]:
        """The parts that are drawn anew, since they are others than those of the start."""
        return tuple(name for name in ("blend", "association") if getattr(start, name) != getattr(model, name))


def _with_remat(backbone, remat: str):
    return dataclasses.replace(backbone, remat=remat) if hasattr(backbone, "remat") else backbone
