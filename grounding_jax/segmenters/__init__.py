"""Built-in sources of masks: a published Mask2Former or SAM, as a function of pictures.

    segmenter = segmenters.load_segmenter("mask2former_swin_large.pth")       # or sam_vit_h_4b8939.pth
    [(entities, left_out, _)] = segmenter([image])                  # uint8 [H, W, 3]

Both give the best masks first, in the same form as masks that are read from files. Each device gets one picture at a
time, so that what is found in a picture does not depend on those beside it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from etils import epath

from grounding_jax import weights
from grounding_jax.files import records
from grounding_jax.inference.placement import place
from grounding_jax.segmenters.mask2former import ENTITIES, INSTANCES, PANOPTIC, Frame, segment_entities
from grounding_jax.segmenters.proposals import Proposals
from grounding_jax.segmenters.sam import segment_everything
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.weights import folder
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.tensors import CheckpointError

Segmenter = Callable[[Sequence[np.ndarray]], list[Proposals]]
_RULES = ((".*", REPLICATED),)  # the largest has 0.6 billion parameters


def load_segmenter(path: epath.PathLike, dtype=None, mesh: MeshShape | None = None) -> Segmenter:
    """Makes a source of masks of a published checkpoint; which of the two it is follows from its names.

    A Mask2Former with a Swin, of EntitySeg's one class, "entity", or of COCO's classes, is in the files of detectron2
    or in a folder of Hugging Face's transformers. Classes are not told. Its masks are disjoint, see `non_overlapping`,
    but for a model of COCO's 80 instances, see `overlapping`. A SAM is in the naming of its release. Its masks overlap,
    see `segment_everything`. Sizes follow from the shapes; a preprocessor_config.json in the folder may say by
    "shortest_edge" and "longest_edge" how large pictures are shown.

    Args:
        path: file or folder.
        dtype: dtype of the parameters and the computation, or its name; by default float32 on CPU and bfloat16
            elsewhere. The decoders of Mask2Former compute in float32, as in the release.
        mesh: layout of this process's devices, each of which gets the whole model; None takes one.

    Returns:
        A function from pictures uint8 [H, W, 3] of any sizes to the `Proposals` of each, with masks of its size.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the mesh does not fit the devices.
        CheckpointError: it is damaged, or a checkpoint of anything else.
    """
    layout, tensors = open_layout(path, ("SAM", *weights.mask2former.LAYOUTS))
    if layout == "SAM":
        sam_config, params = weights.sam.load(path)
        placed = place(params, _RULES, dtype, mesh)
        return functools.partial(segment_everything, sam_config, placed.params, dtype=placed.dtype, mesh=placed.mesh)
    backbone, config, leaves = weights.mask2former.read(layout, tensors, path)
    if config.classes not in (ENTITIES, INSTANCES, PANOPTIC):
        raise CheckpointError(
            f"{path}: this Mask2Former tells {config.classes} classes apart; masks are taken of models with one class, "
            f"as EntitySeg's, and of COCO's, with {INSTANCES} (instances) or {PANOPTIC} (panoptic)"
        )
    placed = place(folder.to_params(leaves), _RULES, dtype, mesh)
    shown = dict(dtype=placed.dtype, mesh=placed.mesh, frame=_read_frame(epath.Path(path)))
    return functools.partial(segment_entities, backbone, config, placed.params, **shown)


class _Preprocessor(msgspec.Struct):
    """What transformers notes beside a model about its pictures."""

    size: dict[str, int] | int | None = None


def _read_frame(path: epath.Path) -> Frame | None:
    """How large a model is shown pictures, where the folder says so by both sides; other notes are of transformers'."""
    file = path / "preprocessor_config.json"
    if not (path.is_dir() and file.exists()):
        return None
    size = records.read(file, _Preprocessor).size
    sides = tuple(size.get(name, 0) for name in ("shortest_edge", "longest_edge")) if isinstance(size, dict) else (0, 0)
    return sides if all(side >= 1 for side in sides) else None
