"""What a GSVA is made of: sizes of its parts, and how text and pictures are put before it."""

from __future__ import annotations

import dataclasses

from etils import epath

from grounding_jax.files import configs
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.sam import SamConfig

ASSETS = epath.Path(__file__).parent / "assets"  # the shipped model and some scenes


@dataclasses.dataclass(frozen=True)
class GsvaConfig:
    """A whole GSVA (spec gsva a.1).

    Attributes:
        llama, clip, sam: sizes of the parts.
        select_layer: index of the CLIP hidden state that the language model sees.
        template: conversation template, one of `prompts.TEMPLATES`.
        model_max_length: context length in tokens, image patches included.
        smallest_part: pixels that a connected part of a mask has at least, unless it is the largest one; smaller ones
            are left out of answers, other than in the official protocol.
    """

    llama: LlamaConfig
    clip: ClipConfig
    sam: SamConfig
    select_layer: int = -2
    template: str = "llava_v1"
    model_max_length: int = 1024
    smallest_part: int = 0

    def __post_init__(self):
        if not -1 <= self.select_layer + self.clip.layers <= 2 * self.clip.layers:
            raise ValueError(f"select_layer is {self.select_layer}, but CLIP has {self.clip.layers} layers")

    @classmethod
    def gsva_7b(cls) -> GsvaConfig:
        """GSVA-7B: Vicuna-7B v1.1, CLIP ViT-L/14, SAM ViT-H."""
        return cls(LlamaConfig.vicuna_7b(lora_rank=8), ClipConfig.vit_l14(), SamConfig.vit_h())

    @classmethod
    def gsva_13b(cls) -> GsvaConfig:
        """GSVA-13B: Vicuna-13B v1.1, CLIP ViT-L/14, SAM ViT-H."""
        return cls(LlamaConfig.vicuna_13b(lora_rank=64), ClipConfig.vit_l14(), SamConfig.vit_h())

    @classmethod
    def gsva_13b_llama2(cls) -> GsvaConfig:
        """GSVA-13B on Llama-2-13B-chat."""
        llama = LlamaConfig.llama2_13b(lora_rank=64)
        return cls(llama, ClipConfig.vit_l14(), SamConfig.vit_h(), template="llava_llama_2")

    @classmethod
    def tiny(cls, vocab_size: int, sam_size: int = 144) -> GsvaConfig:
        """The small model of docs/tiny.md, 4.9 million parameters; its SAM sees pictures of a size in pixels."""
        llama = LlamaConfig(vocab_size, width=160, hidden=432, layers=5, heads=5, kv_heads=5, max_positions=1024)
        clip = ClipConfig(image_size=112, patch_size=8, width=144, hidden=576, layers=5, heads=4)
        sam = SamConfig(
            width=128,
            layers=6,
            heads=4,
            global_blocks=(2, 5),
            image_size=sam_size,
            patch_size=8,
            window=9,
            prompt_width=96,
            mask_channels=4,
            decoder_heads=4,
            decoder_hidden=256,
            iou_hidden=32,
            iou_layers=2,
        )
        return cls(llama, clip, sam, select_layer=-1, template="plain")

    def to_json(self) -> str:
        """As text for a model folder's config.json."""
        return configs.to_json(self)
