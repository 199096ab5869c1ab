"""Groups of rules that most architectures have: torch's `weight` and `bias` against the leaves of our layers."""

from __future__ import annotations

from grounding_jax.weights.table import Rule, packed
from grounding_jax.weights.transforms import LINEAR, Transform


def layer(torch: str, ours: str, transform: Transform = LINEAR) -> list[Rule]:
    """A linear layer or convolution with bias against `kernel` and `bias`."""
    return [Rule(f"{torch}.weight", f"{ours}/kernel", transform), Rule(f"{torch}.bias", f"{ours}/bias")]


def norm(torch: str, ours: str) -> list[Rule]:
    """A norm against `scale` and `bias`."""
    return [Rule(f"{torch}.weight", f"{ours}/scale"), Rule(f"{torch}.bias", f"{ours}/bias")]


def packed_layers(torch: str, ours: list[str]) -> list[Rule]:
    """One linear layer that is several of ours side by side, such as a projection to queries, keys and values."""
    kernels, biases = ([f"{name}/{leaf}" for name in ours] for leaf in ("kernel", "bias"))
    return [*packed(f"{torch}.weight", kernels, LINEAR), *packed(f"{torch}.bias", biases)]
