"""How public checkpoints are told apart, so that a file in the wrong place is named and not misread."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from etils import epath

from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import CheckpointError, Weights

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


# What wrappers of modules put into names anywhere: torch.compile, FSDP, activation checkpointing, Fabric.
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_fpw_module|_checkpoint_wrapped_module|_forward_module)\."
)


def open_layout(path: epath.PathLike, wanted: Sequence[str], layouts: Layouts = PUBLIC) -> tuple[str, Weights]:
    """The layout of a checkpoint, which must be one of those `wanted`, and its tensors as `open_weights` gives them.

    Names may have what training programs put around a model: wrappers anywhere, and words before all of them, such as
    "module.", which are taken off until a layout fits. The report says so.

    Raises:
        FileNotFoundError, CheckpointError: what is wrong with the file, or what it holds instead.
    """
    weights = open_weights(path)
    found, names = _plain_names(weights, layouts)
    if found not in wanted:
        what = f"the {found} layout" if found else f"no known layout (first name: {next(iter(weights))})"
        raise CheckpointError(f"{path}: has {what}, expected {' or '.join(wanted)}")
    plain = {names[key]: tensor for key, tensor in weights.items()}
    if len(plain) < len(weights):
        raise CheckpointError(f"{path}: has names twice, with and without what a training program puts before them")
    changed = next((key for key, name in names.items() if key != name), None)
    lines = () if changed is None else (f"read: the names of {path} as plain ones, {changed} as {names[changed]}",)
    return found, Weights(plain, weights.report + lines)


def _plain_names(keys: Iterable[str], layouts: Layouts) -> tuple[str | None, dict[str, str]]:
    """The first layout that fits, and by key the name in it."""
    names = {key: _WRAPPERS.sub("", key) for key in keys}
    while (found := _fitting(names.values(), layouts)) is None:
        first = {name.partition(".")[0] for name in names.values()}
        if len(first) != 1 or not all("." in name for name in names.values()):
            break
        names = {key: name.partition(".")[2] for key, name in names.items()}
    return found, names


def _fitting(names: Collection[str], layouts: Layouts) -> str | None:
    for layout, marks in layouts:
        if all(any(name.startswith(mark) for name in names) for mark in marks):
            return layout
    return None
