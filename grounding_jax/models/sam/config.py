"""Sizes of the Segment Anything Model (Kirillov et al. 2023, arXiv:2304.02643)."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class SamConfig:
    """Sizes of a SAM; the defaults are those all published sizes share (spec gsva a.9).

    Attributes:
        width: D of the image encoder.
        layers: blocks of the image encoder.
        heads: heads of the image encoder.
        global_blocks: blocks whose attention covers the whole picture; the others attend inside windows.
        image_size: side of the square input in pixels.
        patch_size: side of a patch in pixels.
        hidden: F of the encoder's MLPs, 4 D unless given.
        window: side of an attention window in patches.
        eps: epsilon of the encoder's layer norms and every LayerNorm2d; the decoder's transformer uses 1e-5.
        prompt_width: C, width of prompts and image embedding.
        mask_channels: hidden channels of the prompt encoder's mask branch are mask_channels / 4 and mask_channels.
        decoder_layers: blocks of the two-way transformer.
        decoder_heads: its heads.
        decoder_hidden: F of its MLPs.
        num_masks: mask tokens (one for a single mask, three for ambiguous prompts).
        iou_layers: layers of the head that predicts the quality of each mask.
        iou_hidden: its width.
    """

    width: int
    layers: int
    heads: int
    global_blocks: tuple[int, ...]
    image_size: int = 1024
    patch_size: int = 16
    hidden: int = 0
    window: int = 14
    eps: float = 1e-6
    prompt_width: int = 256
    mask_channels: int = 16
    decoder_layers: int = 2
    decoder_heads: int = 8
    decoder_hidden: int = 2048
    num_masks: int = 4
    iou_layers: int = 3
    iou_hidden: int = 256

    def __post_init__(self):
        if not self.hidden:
            object.__setattr__(self, "hidden", 4 * self.width)
        if self.width % self.heads or self.prompt_width % (2 * self.decoder_heads):
            raise ValueError(
                f"{self.heads} heads don't divide the width {self.width}, or {self.decoder_heads} those of the "
                f"decoder, {self.prompt_width} and half of it"
            )

    @classmethod
    def vit_b(cls) -> SamConfig:
        """SAM ViT-B."""
        return cls(width=768, layers=12, heads=12, global_blocks=(2, 5, 8, 11))

    @classmethod
    def vit_l(cls) -> SamConfig:
        """SAM ViT-L."""
        return cls(width=1024, layers=24, heads=16, global_blocks=(5, 11, 17, 23))

    @classmethod
    def vit_h(cls) -> SamConfig:
        """SAM ViT-H, the one of GSVA's published numbers."""
        return cls(width=1280, layers=32, heads=16, global_blocks=(7, 15, 23, 31))

    @property
    def grid(self) -> int:
        """Side of the patch grid, h = w."""
        return self.image_size // self.patch_size

    @property
    def low_res(self) -> int:
        """Side of the mask logits."""
        return 4 * self.grid
