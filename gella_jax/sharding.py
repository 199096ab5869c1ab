"""How a GELLA lies on a mesh: one table for the whole tree, made of those of its parts."""

from __future__ import annotations

from jax.sharding import PartitionSpec as P

from gella_jax.config import GellaConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.sharding.rules import REPLICATED, Rule, prefixed
from grounding_jax.sharding.tables import CLIP, LLAMA, LORA, SWIN


def table(config: GellaConfig) -> tuple[Rule, ...]:
    """The rules for the parameters of `model.init`.

    The decoder, ResoBlend, the association and a MobileNet are small: each device has them whole.
    """
    projectors = {
        "linear": (("projector/kernel", P(None, "fsdp")), ("projector/bias", REPLICATED)),
        "mlp2x_gelu": (
            ("projector/fc1/kernel", P("fsdp", "tensor")),
            ("projector/fc1/bias", P("tensor")),
            ("projector/fc2/kernel", P("tensor", "fsdp")),
            ("projector/fc2/bias", REPLICATED),
        ),
    }
    swin = isinstance(config.backbone, SwinConfig)
    return (
        *prefixed("llama/", LLAMA + (LORA if config.llama.lora_rank else ())),
        *prefixed("clip/", CLIP),
        *projectors[config.projector],
        *(prefixed("backbone/", SWIN) if swin else (("backbone/.*", REPLICATED),)),
        ("(blend|mask2former|association)/.*", REPLICATED),
    )
