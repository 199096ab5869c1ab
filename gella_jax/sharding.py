"""How a GELLA lies on a mesh: one table for the whole tree, made of those of its parts."""

from __future__ import annotations

from jax.sharding import PartitionSpec as P

from gella_jax.config import GellaConfig
from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.sharding.rules import REPLICATED, Rule, prefixed
from grounding_jax.sharding.tables import CLIP, LLAMA, LORA, MASK2FORMER, SWIN


def table(config: GellaConfig) -> tuple[Rule, ...]:
    """The rules for the parameters of `model.init`.

    A MobileNet is small, and its channels seldom divide: each device has it whole.
    """
    swin = isinstance(config.backbone, SwinConfig)
    mask_branch = (
        *(prefixed("backbone/", SWIN) if swin else (("backbone/.*", REPLICATED),)),
        *prefixed("mask2former/", MASK2FORMER),
    )
    if config.blend is None:
        return mask_branch
    projectors = {
        "linear": (("projector/kernel", P(None, "fsdp")), ("projector/bias", REPLICATED)),
        "mlp2x_gelu": (
            ("projector/fc1/kernel", P("fsdp", "tensor")),
            ("projector/fc1/bias", P("tensor")),
            ("projector/fc2/kernel", P("tensor", "fsdp")),
            ("projector/fc2/bias", REPLICATED),
        ),
    }
    return (
        *prefixed("llama/", LLAMA + (LORA if config.llama.lora_rank else ())),
        *prefixed("clip/", CLIP),
        *projectors[config.projector],
        *mask_branch,
        *prefixed("blend/", resoblend_table(config.blend)),
        # Both kinds of association, of one layer and of two; only the side of the language model is large.
        ("association/text/(fc1/)?kernel", P("fsdp", None)),
        ("association/(text/(fc2/kernel|(fc[12]/)?bias)|query/.*)", REPLICATED),
    )


def resoblend_table(config: ResoBlendConfig) -> tuple[Rule, ...]:
    """The rules for the parameters of `resoblend.init`, which depend on what is switched on.

    Attention goes one head after the other where there are many places, so only the MLPs are split over ``tensor``.
    """
    rules = [
        ("(.*/)?(image_proj|mask_proj|[qkvo])/kernel", P(None, "fsdp")),
        ("(.*/)?((image_proj|mask_proj|point|[qkvo]|fc2)/bias|(self|mask)_norm/(scale|bias)|conv_bias)", REPLICATED),
    ]
    if config.ff:
        rules += [
            (r"scales_\d/mlp/fc1/kernel", P("fsdp", "tensor")),
            (r"scales_\d/mlp/fc1/bias", P("tensor")),
            (r"scales_\d/mlp/fc2/kernel", P("tensor", "fsdp")),
        ]
    if config.conv:
        return (*rules, (r"scales_\d/conv/kernel", P(None, None, "fsdp", None)))
    return (*rules, (r"scales_\d/point/kernel", P("fsdp", None)))
