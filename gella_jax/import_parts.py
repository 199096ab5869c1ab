"""The two sides of a new GELLA, language and masks: what published files bring to them, and what is made fresh."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from etils import epath

from gella_jax.config import BACKBONES, GellaConfig, architecture, channels
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import SEG_TEXT, Tokenizer
from grounding_jax.models import mask2former as mask2former_model
from grounding_jax.models import mobilenet as mobilenet_model
from grounding_jax.models import swin as swin_model
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights import folder, fresh
from grounding_jax.weights.checkpoint import part, prefixed
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.sizes import Sizes, about, read_fields, read_object
from grounding_jax.weights.table import listed
from grounding_jax.weights.tables import clip, llama, llava, mask2former, mobilenet, swin
from grounding_jax.weights.tensors import CheckpointError, LazyTensor

# Leaves of Mask2Former that depend on what it was trained to tell apart, and on its backbone.
_OF_CLASSES = re.compile(r"transformer_decoder/heads/class_embed/.*")
_OF_CHANNELS = re.compile(r"pixel_decoder/(input_proj_\d|lateral)/kernel")


class LanguageSide(NamedTuple):
    """Sizes and leaves of language model, CLIP and projector, the vocabulary with [SEG], and a report in words.

    `vision_layer` is None where LLaVA's config.json does not tell it; `public` is what config.json files tell, by part.
    """

    llama: LlamaConfig
    clip: ClipConfig
    projector: str
    vision_layer: int | None
    tokenizer: Tokenizer
    leaves: dict[str, LazyTensor]
    report: list[str]
    public: dict[str, Mapping[str, Any]]


class MaskBranch(NamedTuple):
    """Sizes and leaves of backbone and Mask2Former, and in words what was found, made fresh or left out.

    `public` is what a file tells of Mask2Former beside the shapes that are kept.
    """

    backbone: SwinConfig | MobileNetConfig
    mask2former: Mask2FormerConfig
    leaves: dict[str, LazyTensor]
    report: list[str]
    public: Mapping[str, Any]


class _Found(NamedTuple):
    """A backbone that some file has, in words which, its sizes, and leaves that may lack the norms of detection.

    `report` says what else was in the file.
    """

    name: str
    config: SwinConfig | MobileNetConfig
    leaves: dict[str, LazyTensor]
    report: tuple[str, ...]


def language_side(
    language_model: epath.PathLike, vision_tower: epath.PathLike | None, given: Sizes, seed: int
) -> LanguageSide:
    """Opens LLaVA and CLIP and gives them [SEG] and LoRA; see `weights.open_parts` for the arguments."""
    leaves, report = _open_llava(language_model, vision_tower)
    tokenizer, rows = tokenizers.with_targets(tokenizers.freeze(language_model, tokens=()), (SEG_TEXT,))
    leaves, lines = fresh.resized_vocabulary(leaves, rows, fresh.mean_rows, "the mean of the others")
    report += lines
    rank = given["llama"].get("lora_rank", fresh.LORA_RANK)
    leaves |= fresh.lora(leaves, rank, seed)
    if rank:
        report.append(f"fresh: LoRA of rank {rank}")
    text, public, where = llava.read_public(language_model)
    tower, tower_where = read_object(public, "vision_config", where), where
    if vision_tower is not None:
        tower, tower_where = folder.read_public(vision_tower), str(epath.Path(vision_tower) / folder.CONFIG_FILE)
    names = ({"vision_layer": name} for name in ("mm_vision_select_layer", "vision_feature_layer"))
    layers = [layer for name in names for layer in read_fields(public, name, GellaConfig, where).values()]
    with about(language_model):
        sizes = llama.config(part(leaves, "llama/"), text, where, **given["llama"])
        eyes = clip.config(part(leaves, "clip/"), tower, tower_where, **given["clip"])
    return LanguageSide(
        llama=sizes,
        clip=eyes,
        projector="linear" if "projector/kernel" in leaves else "mlp2x_gelu",
        vision_layer=layers[0] if layers else None,
        tokenizer=tokenizer,
        leaves=leaves,
        report=report,
        public={"llama": text, "clip": tower.get("vision_config", tower), "gella": public},
    )


def mask_branch(
    mask2former_file: epath.PathLike | None,
    backbone_file: epath.PathLike | None,
    backbone_name: str | None,
    given: Sizes,
    seed: int,
) -> MaskBranch:
    """Puts together backbone and Mask2Former; see `weights.open_parts` for the arguments and what is taken."""
    if backbone_name is not None and backbone_name not in BACKBONES:
        raise CheckpointError(f"backbone {backbone_name}: unknown, known are {', '.join(BACKBONES)}")
    if backbone_name is not None and backbone_file is not None:
        raise CheckpointError(f"backbone {backbone_name}: would be fresh, but {backbone_file} is to be the backbone")
    report, decoders, inside, found = [], None, None, None
    if mask2former_file is not None:
        inside, decoders = _open_mask2former(mask2former_file, given)
    if backbone_file is not None:
        found = _open_backbone(backbone_file)
    elif inside is not None and (
        backbone_name is None or architecture(inside.config) == architecture(BACKBONES[backbone_name])
    ):
        found = inside
    for one in (inside, None if found is inside else found):
        report += one.report if one is not None else ()
    if inside is not None and found is not inside:
        report.append(f"left out: {inside.name}, which has {_sizes(inside.config)}")
    if found is not None:
        report.append(f"backbone: {found.name}, which has {_sizes(found.config)}")
    config = found.config if found else BACKBONES[backbone_name or "swin_t"]
    backbone = swin_model if isinstance(config, SwinConfig) else mobilenet_model
    name = f"the backbone, with {_sizes(config)}"
    leaves, lines = _completed("backbone", name, found.leaves if found else {}, config, backbone.init, seed)
    report += lines

    sizes, kept, lines = _fitting(decoders, channels(config), given)
    report += lines
    heads, lines = _completed("mask2former", "Mask2Former", kept, sizes, mask2former_model.init, seed)
    public = {} if mask2former_file is None else {**folder.read_public(mask2former_file), "num_queries": sizes.queries}
    return MaskBranch(config, sizes, leaves | heads, report + lines, public)


def _open_llava(
    language_model: epath.PathLike, vision_tower: epath.PathLike | None
) -> tuple[dict[str, LazyTensor], list[str]]:
    """Language model, projector and tower, the latter from its own folder if there is one, and what was left out."""
    layout, tensors = open_layout(language_model, ("llava", "llava-hf"))
    report = list(tensors.report)
    inside = {key for key in tensors if llava.is_tower(key)}
    if not inside and vision_tower is None:
        raise CheckpointError(f"{language_model}: has no vision tower inside; the folder of its CLIP is needed, too")
    if layout == "llava-hf":
        table, tower = llava.transformers(), llava.transformers_tower()
    else:
        two = any(key.startswith(f"{llava.PROJECTOR}.0.") for key in tensors)
        table, tower = llava.original("mlp2x_gelu" if two else "linear"), llava.original_tower()
    without = {key: tensor for key, tensor in tensors.items() if key not in inside}
    leaves = table.to_ours(without, str(language_model))
    if vision_tower is None:
        return leaves | tower.to_ours({key: tensors[key] for key in inside}, str(language_model)), report
    _, own = open_layout(vision_tower, ("CLIP",))
    leaves |= prefixed("clip/", clip.table().to_ours(own, str(vision_tower)))
    report += own.report
    if inside:
        report.append(f"left out: {len(inside)} tensors of the vision tower inside, {vision_tower} is used")
    return leaves, report


def _open_mask2former(
    path: epath.PathLike, given: Sizes
) -> tuple[_Found, tuple[Mask2FormerConfig, dict[str, LazyTensor]]]:
    """The Swin and the decoders of a file of detectron2 or a folder of transformers, with their sizes."""
    layout, tensors = open_layout(path, mask2former.LAYOUTS)
    inside, config, leaves = mask2former.read(layout, tensors, path, **given["mask2former"])
    decoders = {name: leaf for name, leaf in leaves.items() if not name.startswith("backbone/")}
    return _Found(f"the Swin of {path}", inside, part(leaves, "backbone/"), tensors.report), (config, decoders)


def _open_backbone(path: epath.PathLike) -> _Found:
    """A Swin or a MobileNetV2, without what only its stand-alone form has."""
    layout, tensors = open_layout(path, (*swin.LAYOUTS, *mobilenet.LAYOUTS))
    if layout in mobilenet.LAYOUTS:
        _, config, leaves = mobilenet.read(layout, tensors, path)
        return _Found(str(path), config, leaves, tensors.report)
    _, leaves = swin.read(layout, tensors, path)
    leaves = {name: leaf for name, leaf in leaves.items() if not name.startswith("norm/")}
    return _Found(str(path), swin.config(leaves), leaves, tensors.report)


def _fitting(
    decoders: tuple[Mask2FormerConfig, dict[str, LazyTensor]] | None, maps: tuple[int, ...], given: Sizes
) -> tuple[Mask2FormerConfig, dict[str, LazyTensor], list[str]]:
    """Sizes of a Mask2Former for entities and these maps, the leaves that fit, and in words which did not."""
    if decoders is None:
        return Mask2FormerConfig.entity(channels=maps, **given["mask2former"]), {}, []
    config, leaves = decoders
    report, misfits = [], []
    if config.classes != 1:
        misfits.append(_OF_CLASSES)
        report.append(f"left out: Mask2Former's head for {config.classes} classes, GELLA has one for entities")
    if config.channels != maps:
        misfits.append(_OF_CHANNELS)
        report.append(f"left out: Mask2Former's convolutions of maps of {config.channels} channels, not {maps}")
    kept = {path: leaf for path, leaf in leaves.items() if not any(regex.fullmatch(path) for regex in misfits)}
    return dataclasses.replace(config, classes=1, channels=maps), kept, report


def _completed(
    name: str, words: str, leaves: Mapping[str, LazyTensor], config, init: Callable[..., dict], seed: int
) -> tuple[dict[str, LazyTensor], list[str]]:
    """The leaves of a part under its name, those that are lacking as `init` draws them, and the report of that."""
    new = fresh.drawn(init, config, seed, name)
    lacking = [path for path in new if path not in leaves]
    report = [f"fresh: {words}" if not leaves else f"fresh: {name}'s {listed(lacking)}"] if lacking else []
    return prefixed(f"{name}/", {**new, **leaves}), report


def _sizes(config: SwinConfig | MobileNetConfig) -> str:
    if isinstance(config, SwinConfig):
        return f"{config.width} channels, depths {config.depths} and windows of {config.window}"
    return f"widths {config.widths}"
