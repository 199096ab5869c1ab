"""Random weights for PyTorch modules, and those weights in our layout: what the parity tests share."""

from collections.abc import Mapping

import torch

from grounding_jax.weights import folder
from grounding_jax.weights.table import Table
from grounding_jax.weights.tensors import LazyTensor, from_array

STD = 0.3  # large enough for every bias, table and norm to move the result far beyond any tolerance


def randomize(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draws all parameters from N(0, STD), scales of norms from N(1, STD); gives the module back in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(float(is_scale), STD, generator=generator)
    return module.eval()


def leaves(table: Table, state: Mapping[str, torch.Tensor]) -> dict[str, LazyTensor]:
    """A state dict through a weight table: our leaves by path."""
    return table.to_ours({key: from_array(tensor.detach().numpy()) for key, tensor in state.items()}, "random weights")


def parameters(table: Table, state: Mapping[str, torch.Tensor]) -> dict:
    """A state dict through a weight table: our nested parameters."""
    return folder.to_params(leaves(table, state))
