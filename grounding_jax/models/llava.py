"""LLaVA (Liu et al. 2023, arXiv:2304.08485): projected image patches take the place of the image's tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

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
