"""Sizes of Mask2Former's two decoders (Cheng et al. 2022, arXiv:2112.01527)."""

from __future__ import annotations

import dataclasses

SWIN_T, SWIN_L = (96, 192, 384, 768), (192, 384, 768, 1536)  # channels of the backbones' maps


@dataclasses.dataclass(frozen=True)
class Mask2FormerConfig:
    """Sizes of the pixel decoder and the transformer decoder (spec gella A5, A7); the defaults are the published ones.

    Attributes:
        classes: C, without the one for "no object" that comes last.
        channels: channels of the backbone's maps at strides 4, 8, 16, 32.
        queries: Q.
        width: D of both decoders.
        heads: N of all attentions.
        points: that a head of the deformable attention samples on each of the three coarser maps.
        encoder_layers: number of layers of the encoder inside the pixel decoder.
        encoder_hidden: F of its MLPs.
        decoder_layers: L of the transformer decoder.
        decoder_hidden: F of its MLPs.
        remat: "none" keeps all activations of the encoder for the backward pass, "full" keeps one state a layer.
    """

    classes: int
    channels: tuple[int, int, int, int]
    queries: int = 100
    width: int = 256
    heads: int = 8
    points: int = 4
    encoder_layers: int = 6
    encoder_hidden: int = 1024
    decoder_layers: int = 9
    decoder_hidden: int = 2048
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in ("none", "full"):
            raise ValueError(f"remat is {self.remat!r}, should be none or full")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads don't divide the width {self.width}")

    @classmethod
    def coco_panoptic_swin_t(cls, **changes) -> Mask2FormerConfig:
        """Swin-T on COCO panoptic: 80 things and 53 kinds of stuff."""
        return cls(**{**dict(classes=133, channels=SWIN_T), **changes})

    @classmethod
    def coco_panoptic_swin_l(cls, **changes) -> Mask2FormerConfig:
        """Swin-L on COCO panoptic."""
        return cls(**{**dict(classes=133, channels=SWIN_L, queries=200), **changes})

    @classmethod
    def coco_instance_swin_l(cls, **changes) -> Mask2FormerConfig:
        """Swin-L on COCO instances."""
        return cls(**{**dict(classes=80, channels=SWIN_L, queries=200), **changes})

    @classmethod
    def entity(cls, **changes) -> Mask2FormerConfig:
        """One class, "entity", whatever it is: GELLA with a Swin-T, and the models of EntitySeg."""
        return cls(**{**dict(classes=1, channels=SWIN_T), **changes})
