"""LLaVA (Liu et al. 2023, arXiv:2304.08485): projected image patches take the place of the image's tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models import llama
from grounding_jax.models.layers import Linear, Mlp
from grounding_jax.models.llama import LlamaConfig

# Stands in a row of ids for one image patch; not a vocabulary id.
IMAGE_TOKEN = -200


def splice(embeddings: jax.Array, ids: jax.Array, patch_embeddings: jax.Array) -> jax.Array:
    """Puts the patches of each row's picture where its ids say `IMAGE_TOKEN`.

    Args:
        embeddings: token embeddings ``[B, T, D]``, arbitrary at image slots.
        ids: int32 ``[B, T]``, with either no or exactly P image slots a row.
        patch_embeddings: projected patches ``[B, P, D]``.

    Returns:
        ``[B, T, D]``.
    """
    is_image = ids == IMAGE_TOKEN
    rank = jnp.maximum(jnp.cumsum(is_image, axis=1) - 1, 0)
    patch = jnp.take_along_axis(patch_embeddings, rank[..., None], axis=1)
    return jnp.where(is_image[..., None], patch.astype(embeddings.dtype), embeddings)


def projector(kind: str, width: int) -> nn.Module:
    """What takes a tower's patches to the language model's width.

    Args:
        kind: "linear", LLaVA's one layer, or "mlp2x_gelu", LLaVA-1.5's two with a GELU between them.
        width: D of the language model.
    """
    return Linear(width) if kind == "linear" else Mlp(width, width, "gelu")


def embed(params: dict, ids: jax.Array, patches: jax.Array) -> jax.Array:
    """Embeds rows, the picture's patches in their slots (spec gsva a.7).

    Args:
        params: parameters of the language model.
        ids: int32 ``[B, T]``.
        patches: projected patches ``[B, P, D]``; their dtype is that of the result.

    Returns:
        ``[B, T, D]``.
    """
    return splice(llama.embed(params, jnp.maximum(ids, 0)).astype(patches.dtype), ids, patches)


def decode(
    config: LlamaConfig,
    params: dict,
    ids: jax.Array,
    positions: jax.Array,
    branch: jax.Array,
    patches: jax.Array,
    **options,
) -> tuple[jax.Array, dict]:
    """Runs the language model over rows.

    Args:
        config: sizes of the language model.
        params: parameters of the language model.
        ids, positions, branch: int32 ``[B, T]``.
        patches: projected patches ``[B, P, D]``.
        **options: cache and dropout, see `llama.Decoder`.

    Returns:
        ``(hidden [B, T, D] after the final norm, aux)``; see `llama.Decoder`.
    """
    return llama.decode(config, params, embed(params, ids, patches), positions, branch, **options)
