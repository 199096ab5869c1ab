"""Built-in sources of masks: a published Mask2Former for entities, or a SAM, as a function of pictures.

    propose = segmenters.load_segmenter("mask2former_swin_large.pth")         # or sam_vit_h_4b8939.pth
    entities, left_out, _ = propose(image)                          # uint8 [H, W, 3]

Both give the best masks first, in the same form as masks that are read from files.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from etils import epath

from grounding_jax import weights
from grounding_jax.inference.placement import place
from grounding_jax.segmenters.mask2former import segment_entities
from grounding_jax.segmenters.proposals import Proposals
from grounding_jax.segmenters.sam import segment_everything
from grounding_jax.weights import folder
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.tensors import CheckpointError

Segmenter = Callable[[np.ndarray], Proposals]


def load_segmenter(path: epath.PathLike, dtype=None) -> Segmenter:
    """Makes a source of masks of a published checkpoint; which of the two it is follows from its names.

    A Mask2Former with a Swin and one class, "entity", as EntitySeg's, is in the files of detectron2 or in a folder of
    Hugging Face's transformers. Its masks are disjoint, see `non_overlapping`. A SAM is in the naming of its release.
    Its masks overlap, see `segment_everything`. Sizes follow from the shapes.

    Args:
        path: file or folder.
        dtype: dtype of the parameters and the computation, or its name; by default float32 on CPU and bfloat16
            elsewhere. The decoders of Mask2Former compute in float32, as in the release.

    Returns:
        A function from a picture uint8 [H, W, 3] to `Proposals` with masks of its size.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: it is damaged, or a checkpoint of anything else.
    """
    layout, tensors = open_layout(path, ("SAM", *weights.mask2former.LAYOUTS))
    if layout == "SAM":
        sam_config, params = weights.sam.load(path)
        placed = place(params, (), dtype)
        return functools.partial(segment_everything, sam_config, placed.params, dtype=placed.dtype)
    backbone, config, leaves = weights.mask2former.read(layout, tensors, path)
    if config.classes != 1:
        raise CheckpointError(
            f"{path}: this Mask2Former tells {config.classes} classes apart; masks of entities need one that knows a "
            "single class, as EntitySeg's do"
        )
    placed = place(folder.to_params(leaves), (), dtype)
    return functools.partial(segment_entities, backbone, config, placed.params, dtype=placed.dtype)
