"""SAM's prompt encoder: points, boxes, masks and text become tokens and a dense embedding."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import linen as nn

from grounding_jax.models.layers import Linear, gelu, layer_norm, patchify
from grounding_jax.models.sam.config import SamConfig

# Rows of `point_embed`, which are also the labels of points; label -1 marks a slot that holds no point.
BACKGROUND, FOREGROUND, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = range(4)


def fourier(gaussian: jax.Array, coordinates: jax.Array) -> jax.Array:
    """Random Fourier features of positions.

    Args:
        gaussian: ``[2, C / 2]``, the fixed random frequencies; first row x, second y.
        coordinates: ``[..., 2]``, x and y as fractions of the side.

    Returns:
        float32 ``[..., C]``: sines, then cosines.
    """
    # Full float32 whatever the default: the angles reach hundreds of radians, and a rounded product is another place.
    angle = jnp.matmul(
        2 * coordinates.astype(jnp.float32) - 1,
        gaussian.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
    )
    angle = 2 * jnp.pi * angle
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


def dense_positions(gaussian: jax.Array, grid: int) -> jax.Array:
    """Positional encoding of the centres of a grid's cells: ``[grid, grid, C]``."""
    centres = (jnp.arange(grid, dtype=jnp.float32) + 0.5) / grid
    x, y = jnp.meshgrid(centres, centres)
    return fourier(gaussian, jnp.stack([x, y], axis=-1))


class PromptEncoder(nn.Module):
    """Encodes any mixture of prompts; every argument may be None."""

    config: SamConfig

    @nn.compact
    def __call__(
        self,
        points: jax.Array | None = None,
        labels: jax.Array | None = None,
        boxes: jax.Array | None = None,
        masks: jax.Array | None = None,
        text: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Encodes prompts for M masks.

        Args:
            points: ``[M, n, 2]``, x and y in pixels of the model's frame.
            labels: int32 ``[M, n]``: 1 foreground, 0 background, -1 no point.
            boxes: ``[M, 4]``: x0, y0, x1, y1 in pixels of the model's frame.
            masks: ``[M, low_res, low_res]`` mask logits of an earlier answer.
            text: ``[M, k, C]`` embeddings made elsewhere, such as GSVA's.

        Returns:
            ``(sparse [M or 1, tokens, C], dense [M or 1, h, w, C], positions [h, w, C])``: prompt tokens in the
            order points, box corners, text; what is added to the image embedding; the positional encoding of its cells.
            Points without a box get one more empty point, as the published weights expect; text alone does not.
        """
        c = self.config
        width = c.prompt_width
        normal = nn.initializers.normal
        gaussian = self.param("gaussian", normal(1.0), (2, width // 2))
        point_embed = self.param("point_embed", normal(1.0), (4, width))
        not_a_point = self.param("not_a_point", normal(1.0), (width,))
        no_mask = self.param("no_mask", normal(1.0), (width,))
        tokens = []
        if points is not None:
            if boxes is None:
                points = jnp.pad(points, ((0, 0), (0, 1), (0, 0)))
                labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=-1)
            # Pixel centres: the 0.5 also shifts box corners.
            embedding = fourier(gaussian, (points + 0.5) / c.image_size) + point_embed[jnp.maximum(labels, 0)]
            tokens.append(jnp.where(labels[..., None] < 0, not_a_point, embedding))
        if boxes is not None:
            corners = fourier(gaussian, (boxes.reshape(-1, 2, 2) + 0.5) / c.image_size)
            tokens.append(corners + point_embed[jnp.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT])])
        if text is not None:
            tokens.append(text)
        dense = jnp.broadcast_to(no_mask, (1, c.grid, c.grid, width))
        if self.is_initializing():
            masks = jnp.zeros((1, c.low_res, c.low_res))
        if masks is not None:
            dense = MaskDownscaling(c, name="mask_downscaling")(masks[..., None])
        sparse = jnp.concatenate(tokens, axis=1) if tokens else jnp.zeros((dense.shape[0], 0, width))
        return sparse, dense, dense_positions(gaussian, c.grid)


class MaskDownscaling(nn.Module):
    """A mask prompt becomes a dense embedding: two 2x2 strided convolutions and a 1x1."""

    config: SamConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[M, 4h, 4w, 1] -> [M, h, w, C]``."""
        c = self.config
        x = Linear(c.mask_channels // 4, name="conv1")(patchify(x, 2))
        x = gelu(layer_norm(x, c.eps, "norm1"))
        x = Linear(c.mask_channels, name="conv2")(patchify(x, 2))
        x = gelu(layer_norm(x, c.eps, "norm2"))
        return Linear(c.prompt_width, name="conv3")(x)
