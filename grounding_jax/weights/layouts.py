"""How public checkpoints are told apart, so that a file in the wrong place is named and not misread."""

from __future__ import annotations

from collections.abc import Sequence

from etils import epath

from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

# Names of layouts, and the marks each of which begins some name of such a state dict; the first that fits is meant.
# "-hf" is the naming of Hugging Face's transformers, where there is another.
Layouts = tuple[tuple[str, tuple[str, ...]], ...]
PUBLIC: Layouts = (
    ("llava", ("model.mm_projector.", "model.layers.")),
    ("llava-hf", ("multi_modal_projector.",)),
    ("llava-hf", ("model.multi_modal_projector.",)),
    ("LLaMA", ("model.layers.",)),
    ("SAM", ("image_encoder.", "mask_decoder.")),
    ("CLIP", ("vision_model.",)),
    ("CLIP", ("embeddings.class_embedding", "pre_layrnorm.")),
    ("Mask2Former", ("backbone.patch_embed.", "sem_seg_head.")),
    ("Mask2Former-hf", ("model.pixel_level_module.encoder.embeddings.", "model.transformer_module.")),
    ("Swin", ("patch_embed.", "layers.0.blocks.")),
    ("Swin-hf", ("embeddings.patch_embeddings.", "encoder.layers.0.blocks.")),
    ("Swin-hf", ("swin.embeddings.patch_embeddings.",)),
    ("MobileNetV2", ("features.0.0.", "features.18.")),
    ("MobileNetV2-hf", ("conv_stem.",)),
    ("MobileNetV2-hf", ("mobilenet_v2.conv_stem.",)),
)


def open_layout(
    path: epath.PathLike, wanted: Sequence[str], layouts: Layouts = PUBLIC
) -> tuple[str, dict[str, LazyTensor]]:
    """The layout of a checkpoint, which must be one of those `wanted`, and its tensors as `open_weights` gives them.

    Raises:
        FileNotFoundError, CheckpointError: what is wrong with the file, or what it holds instead.
    """
    tensors = open_weights(path)
    fitting = (name for name, marks in layouts if all(any(key.startswith(mark) for key in tensors) for mark in marks))
    found = next(fitting, None)
    if found not in wanted:
        what = f"the {found} layout" if found else f"no known layout (first name: {next(iter(tensors), 'none')})"
        raise CheckpointError(f"{path}: has {what}, expected {' or '.join(wanted)}")
    return found, tensors
