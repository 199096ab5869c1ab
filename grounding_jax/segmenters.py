"""Built-in sources of masks: a published Mask2Former for entities, or a SAM, as a function of pictures.

    propose = segmenters.load("mask2former_swin_large.pth")         # or sam_vit_h_4b8939.pth
    entities, left_out, _ = propose(image)                          # uint8 [H, W, 3]

Both give the best masks first, in the same form as masks that are read from files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from grounding_jax.data.pictures import normalize_sam, resize_longest
from grounding_jax.models import mask2former, sam, swin
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mask_resize import resize_matrix
from grounding_jax.models.swin import SwinConfig
from grounding_jax.proposals import Proposals, non_overlapping, segment_everything
from grounding_jax.sharding.placement import place
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import expected_shapes
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.tables import mask2former as mask2former_weights
from grounding_jax.weights.tables import sam as sam_weights
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

# How detectron2 shows a picture to a Mask2Former when it is tested, in pixels.
SHORTEST = 800  # of the sides
LONGEST = 1333  # that the other side may become; then the shortest is less
DIVISOR = 32  # of the sides once they are padded

Segmenter = Callable[[np.ndarray], Proposals]


def load(path: epath.PathLike, dtype=None) -> Segmenter:
    """Makes a source of masks of a published checkpoint; which of the two it is follows from its names.

    A Mask2Former with a Swin and one class, "entity", as EntitySeg's, is in the files of detectron2 or in a folder of
    Hugging Face's transformers. Its masks are disjoint, see `non_overlapping`. A SAM is in the naming of its release.
    Its masks overlap, see `segment_everything`. Sizes follow from the shapes.

    Args:
        path: of the file or folder.
        dtype: of the parameters and the computation, or its name; by default float32 on CPU and bfloat16 elsewhere.
            The decoders of Mask2Former compute in float32, as in the release.

    Returns:
        A function from a picture uint8 [H, W, 3] to `Proposals` with masks of its size.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or a checkpoint of anything else.
    """
    layout, tensors = open_layout(path, ("SAM", "Mask2Former", "Mask2Former-hf"))
    if layout == "SAM":
        return _load_sam(tensors, path, dtype)
    backbone, config, leaves = mask2former_weights.read(layout, tensors, path)
    if config.classes != 1:
        raise CheckpointError(
            f"{path}: this Mask2Former tells {config.classes} classes apart; masks of entities need one that knows a "
            "single class, as EntitySeg's do"
        )
    placed = place(folder.to_params(leaves), (), dtype)
    return functools.partial(_segment_entities, backbone, config, placed.params, dtype=placed.dtype)


def mask2former_input(image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Resizes uint8 [H, W, 3] as detectron2 does for testing, and pads it at the right and the bottom.

    The shortest side becomes `SHORTEST`, or less where the other one would be more than `LONGEST` (the sizes of both
    are those of detectron2's `ResizeShortestEdge`).

    Returns:
        The padded uint8 picture, whose sides `DIVISOR` divides, and the (height, width) that it takes up in there.
    """
    resized = resize_longest(image, resized_longest(image.shape[:2]))
    height, width = resized.shape[:2]
    return np.pad(resized, ((0, -height % DIVISOR), (0, -width % DIVISOR), (0, 0))), (height, width)


def resized_longest(size: tuple[int, int]) -> int:
    """The longest side of a picture of (height, width) as a Mask2Former sees it."""
    return min(LONGEST, int(SHORTEST * max(size) / min(size) + 0.5))


def _segment_entities(
    backbone: SwinConfig, config: Mask2FormerConfig, params: dict, image: np.ndarray, dtype
) -> Proposals:
    padded, resized = mask2former_input(image)
    logits = _predict(backbone, config, params, padded[None], np.array([resized], np.int32), dtype)
    classes, masks = (np.asarray(x[0]) for x in logits)
    return non_overlapping(classes, masks, _matrices(masks.shape[1:], padded.shape[:2], resized, image.shape[:2]))


@functools.partial(jax.jit, static_argnames=("backbone", "config", "dtype"))
def _predict(
    backbone: SwinConfig, config: Mask2FormerConfig, params: dict, padded: jax.Array, resized: jax.Array, dtype
) -> tuple[jax.Array, jax.Array]:
    """Pictures uint8 ``[B, H, W, 3]`` -> float32 logits of classes ``[B, Q, 2]`` and of masks ``[B, Q, H/4, W/4]``.

    It is compiled once for every padded size, of which there are few.
    """
    pixels = normalize_sam(padded, resized).astype(dtype)  # SAM's constants are ImageNet's
    maps = swin.pyramid(backbone, params["backbone"], pixels)
    last, _ = mask2former.predict(config, params, [x.astype(jnp.float32) for x in maps])
    return last.class_logits, last.mask_logits


def _matrices(
    low: tuple[int, int], padded: tuple[int, int], resized: tuple[int, int], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices [H, h] and [W, w] from logits to the padded picture, of which the inside is resized to the picture."""
    axes = zip(low, padded, resized, size, strict=True)
    rows, columns = (
        resize_matrix(length, inside) @ resize_matrix(frame, grid)[:inside] for grid, frame, inside, length in axes
    )
    return rows, columns


def _load_sam(tensors: dict[str, LazyTensor], path: epath.PathLike, dtype) -> Segmenter:
    table = sam_weights.table()
    leaves = table.to_ours(tensors, str(path))
    config = sam_weights.config(leaves)
    table.check_shapes(leaves, expected_shapes(sam.init, config), str(path))
    placed = place(folder.to_params(leaves), (), dtype)
    return functools.partial(segment_everything, config, placed.params, dtype=placed.dtype)
