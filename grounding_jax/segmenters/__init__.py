"""Built-in sources of masks: a published Mask2Former for entities, or a SAM, as a function of pictures.

    propose = segmenters.load("mask2former_swin_large.pth")         # or sam_vit_h_4b8939.pth
    entities, left_out, _ = propose(image)                          # uint8 [H, W, 3]

Both give the best masks first, in the same form as masks that are read from files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from etils import epath

from grounding_jax.models import sam as sam_model
from grounding_jax.segmenters.mask2former import segment_entities
from grounding_jax.segmenters.proposals import Proposals
from grounding_jax.segmenters.sam import segment_everything
from grounding_jax.sharding.placement import place
from grounding_jax.weights import folder
from grounding_jax.weights import mask2former as mask2former_weights
from grounding_jax.weights import sam as sam_weights
from grounding_jax.weights.checkpoint import expected_shapes
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

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
    return functools.partial(segment_entities, backbone, config, placed.params, dtype=placed.dtype)


def _load_sam(tensors: dict[str, LazyTensor], path: epath.PathLike, dtype) -> Segmenter:
    table = sam_weights.table()
    leaves = table.to_ours(tensors, str(path))
    config = sam_weights.config(leaves)
    table.check_shapes(leaves, expected_shapes(sam_model.init, config), str(path))
    placed = place(folder.to_params(leaves), (), dtype)
    return functools.partial(segment_everything, config, placed.params, dtype=placed.dtype)
