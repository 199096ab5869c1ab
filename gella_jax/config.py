"""What a GELLA is made of: sizes of its parts, and how they are wired."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from etils import epath

from gella_jax.association import AssociationConfig
from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.files import configs
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mobilenet import TAPS, MobileNetConfig
from grounding_jax.models.swin import SwinConfig

ASSETS = epath.Path(__file__).parent / "assets"
# What a model folder may have besides: the categories that it knows, where these are not COCO's, and a Mask2Former that
# finds masks where none are given.
CATEGORIES_FILE, SEGMENTER_FOLDER = "categories.json", "segmenter"

# Vicuna v1.5: its vocabulary and [SEG], and a context of 4,096 tokens.
_LLAVA_15 = dict(vocab_size=32001, max_positions=4096, eps=1e-5)
_LARGEST_SIDE = 2**13  # of a colormap in pixels
BLENDS = ("paper", "skip", "mask_query", "literal")  # presets of `ResoBlendConfig`
_CHOICES = {
    "projector": ("linear", "mlp2x_gelu"),
    "seg_state": ("at", "predicting"),
    "colours": ("random", "location"),
}
BACKBONES = {
    "swin_t": SwinConfig.tiny(),
    "swin_l": SwinConfig.large(),
    "mobilenet_v2": MobileNetConfig.torchvision(),
}


def channels(backbone: SwinConfig | MobileNetConfig) -> tuple[int, ...]:
    """C of a backbone's maps at strides 4, 8, 16, 32."""
    return backbone.widths if isinstance(backbone, SwinConfig) else tuple(backbone.widths[i] for i in TAPS)


def architecture(backbone: SwinConfig | MobileNetConfig) -> tuple:
    """What tells backbones apart; windows and padding differ with who trained one, and on pictures of which size."""
    if isinstance(backbone, SwinConfig):
        return backbone.width, backbone.depths, backbone.heads, backbone.patch_size, backbone.mlp_ratio
    return backbone.stem, backbone.widths


@dataclasses.dataclass(frozen=True)
class GellaConfig:
    """A whole GELLA (spec gella a).

    Attributes:
        llama, clip, backbone, blend, mask2former, association: sizes of the parts. Without a blend, entities are
            decoded from the colormap alone (Table 6), and there are neither nouns nor answers.
        projector: from CLIP's patches to the language model, see `llava.projector`.
        vision_layer: index of the CLIP hidden state that the language model and ResoBlend see; the projector and the
            language model of LLaVA-1.5 fit -2 only.
        seg_state: state of the language model that stands for a noun: that "at" its [SEG], or the one "predicting" it.
        side: S, of the square colormap in pixels; the paper does not tell it.
        colours: choice of the colormap's colours, see `colormap.choose_colours` (Table 5b).
        template: conversation template, one of `prompts.TEMPLATES`.
        model_max_length: context length in tokens, image patches included.
    """

    llama: LlamaConfig
    clip: ClipConfig
    backbone: SwinConfig | MobileNetConfig
    blend: ResoBlendConfig | None
    mask2former: Mask2FormerConfig
    association: AssociationConfig
    projector: str = "mlp2x_gelu"
    vision_layer: int = -2
    seg_state: str = "at"
    side: int = 800
    colours: str = "random"
    template: str = "vicuna_v1"
    model_max_length: int = 4096

    def __post_init__(self):
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}, should be {' or '.join(choices)}")
        if self.side > _LARGEST_SIDE:
            raise ValueError(f"side is {self.side}, should be at most {_LARGEST_SIDE}")
        if not -1 <= self.vision_layer + self.clip.layers <= 2 * self.clip.layers:
            raise ValueError(f"vision_layer is {self.vision_layer}, but CLIP has {self.clip.layers} layers")
        if self.blend is not None and self.blend.channels != self.mask2former.channels:
            raise ValueError(
                f"ResoBlend gives maps of {self.blend.channels} channels, but Mask2Former takes "
                f"{self.mask2former.channels}"
            )

    def rewired(
        self, blend: str = "", without: Sequence[str] = (), colours: str = "", association: str = ""
    ) -> GellaConfig:
        """The same parts, wired otherwise (Tables 5 to 10); what is empty stays as it is.

        Args:
            blend: one of `BLENDS`, in the sizes of now, or "none" for no ResoBlend.
            without: switches of ResoBlend that are off.
            colours, association: see `GellaConfig` and `AssociationConfig.kind`.
        """
        maps, blended = channels(self.backbone), self.blend
        if blend in BLENDS:
            old = self.blend or ResoBlendConfig(maps, image_width=self.clip.width)
            sizes = dict(image_width=old.image_width, heads=old.heads)
            if blend != "literal":
                sizes |= dict(width=old.width, hidden=old.hidden)
            blended = getattr(ResoBlendConfig, blend)(maps, **sizes)
        if blended is not None:
            blended = None if blend == "none" else dataclasses.replace(blended, **dict.fromkeys(without, False))
        kind = association or self.association.kind
        return dataclasses.replace(
            self,
            blend=blended,
            association=dataclasses.replace(self.association, kind=kind),
            colours=colours or self.colours,
        )

    @classmethod
    def gella_7b(cls, backbone: str = "swin_t", **changes) -> GellaConfig:
        """GELLA-7B: LLaVA-1.5-7B, whose CLIP sees 336 pixels, and a Swin-T; or "swin_l", "mobilenet_v2"."""
        return cls._published(LlamaConfig.vicuna_7b(**_LLAVA_15), backbone, changes)

    @classmethod
    def gella_13b(cls, backbone: str = "swin_t", **changes) -> GellaConfig:
        """GELLA-13B: LLaVA-1.5-13B."""
        return cls._published(LlamaConfig.vicuna_13b(**_LLAVA_15), backbone, changes)

    @classmethod
    def tiny(cls, vocab_size: int, **changes) -> GellaConfig:
        """The small model of docs/tiny.md; its language model and CLIP have the sizes of the tiny GSVA's."""
        llama = LlamaConfig(vocab_size, width=160, hidden=432, layers=5, heads=5, kv_heads=5, max_positions=1024)
        clip = ClipConfig(image_size=112, patch_size=8, width=144, hidden=576, layers=5, heads=4)
        backbone = SwinConfig(24, depths=(1, 1, 2, 1), heads=(1, 2, 4, 8), window=6, drop_path=0.0)
        blend = dict(image_width=clip.width, width=64, hidden=128, heads=4)
        mask2former = Mask2FormerConfig.entity(
            channels=backbone.widths,
            queries=16,
            width=64,
            heads=4,
            encoder_layers=2,
            encoder_hidden=128,
            decoder_layers=6,
            decoder_hidden=128,
        )
        parts = dict(
            blend=ResoBlendConfig.skip(backbone.widths, **blend),
            association=AssociationConfig(text_width=llama.width, query_width=64, width=64),
            projector="linear",
            vision_layer=-1,  # the layer that this CLIP was taught with
            side=96,
            template="plain",
            model_max_length=1024,
        )
        return cls(llama, clip, backbone, mask2former=mask2former, **{**parts, **changes})

    @classmethod
    def _published(cls, llama: LlamaConfig, name: str, changes: dict) -> GellaConfig:
        backbone = BACKBONES[name]
        maps = channels(backbone)
        parts = {
            "llama": llama,
            "clip": ClipConfig.vit_l14(image_size=336),
            "backbone": backbone,
            "blend": ResoBlendConfig.skip(maps),
            "mask2former": Mask2FormerConfig.entity(channels=maps),
            "association": AssociationConfig(text_width=llama.width),
        }
        return cls(**{**parts, **changes})

    def to_json(self) -> str:
        """As text for a model folder's config.json."""
        return configs.to_json(self)
