"""How a GSVA lies on a mesh: one table for the whole tree, made of those of its parts."""

from __future__ import annotations

from jax.sharding import PartitionSpec as P

from grounding_jax.sharding.rules import REPLICATED, Rule, prefixed
from grounding_jax.sharding.tables import CLIP, LLAMA, LORA, SAM
from gsva_jax.config import GsvaConfig


def table(config: GsvaConfig) -> tuple[Rule, ...]:
    """The rules for the parameters of `model.init`."""
    return (
        *prefixed("llama/", LLAMA + (LORA if config.llama.lora_rank else ())),
        *prefixed("clip/", CLIP),
        *prefixed("sam/", SAM),
        ("projector/kernel", P(None, "fsdp")),
        ("prompt_mlp/fc1/kernel", P("fsdp", "tensor")),
        ("prompt_mlp/fc1/bias", P("tensor")),
        ("prompt_mlp/fc2/kernel", P("tensor", "fsdp")),
        ("(projector|prompt_mlp/fc2)/bias", REPLICATED),
    )
