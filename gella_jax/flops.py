"""How much arithmetic GELLA's own parts take, in the units of `grounding_jax.planning.flops`."""

from __future__ import annotations

from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.planning.flops import attention_macs, mobilenet_flops, places, swin_flops


def backbone_flops(config: SwinConfig | MobileNetConfig, side: int) -> int:
    """Forward pass of the colormap's backbone over one colormap."""
    return (swin_flops if isinstance(config, SwinConfig) else mobilenet_flops)(config, side)


def resoblend_flops(config: ResoBlendConfig, patches: int, side: int) -> int:
    """Forward pass of ResoBlend over one picture of so many patches and one colormap."""
    c, D, total = config, config.width, 0
    if c.ca:
        total += patches * c.image_width * D + (attention_macs(patches, patches, D) if c.sa else 0)
    for P, C in zip(places(side), c.channels, strict=True):
        looking = patches if c.ca and c.query == "image" else P  # what the result of the attention is a map of
        total += P * C * D + (attention_macs(patches, P, D) if c.ca else 0)
        total += looking * (2 * D * c.hidden if c.ff else 0) + looking * (9 if c.conv else 1) * D * C
    return 2 * total
