"""GELLA's checkpoints: LLaVA-1.5, CLIP, Mask2Former and backbones in, and back out (spec gella g).

    open_parts(llava, clip, mask2former).save("CKPT")            # a new GELLA, to be trained
    export("CKPT", "original", "OUT")                            # OUT/llava, OUT/clip, OUT/mask2former.pth, OUT/gella
    open_exported("OUT").save("CKPT2")                           # the same again, bit for bit

ResoBlend and the association have no public layout: exporting puts them into a folder of ours, `gella`, with the
config, the tokenizer and LoRA.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from gella_jax import association, import_parts, model, resoblend
from gella_jax.association import AssociationConfig
from gella_jax.config import BLENDS, GellaConfig
from gella_jax.prompts import TEMPLATES
from gella_jax.resoblend import ResoBlendConfig
from gella_jax.sizes import KEYS, UNTOLD
from grounding_jax.files.writing import write_json
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights import folder, fresh
from grounding_jax.weights.checkpoint import (
    Checkpoint,
    check_template,
    check_tokenizer,
    closing_lines,
    expected_shapes,
    part,
    prefixed,
)
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.lora import has_lora, merged
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.sizes import Sizes, about, assumed, read_sizes
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tables import clip, llama, llava, mask2former, mobilenet, swin
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.writers import Progress, write_safetensors, write_torch, write_torch_shards

LAYOUTS = ("original", "hf")
OWN = "gella"  # the folder of an export with what has no public layout


def open_parts(
    language_model: epath.PathLike,
    vision_tower: epath.PathLike | None = None,
    mask2former_file: epath.PathLike | None = None,
    backbone_file: epath.PathLike | None = None,
    *,
    backbone_name: str | None = None,
    preset: str = "skip",
    sizes: epath.PathLike | None = None,
    template: str | None = None,
    seed: int = 0,
) -> Checkpoint:
    """A new GELLA from published parts, to be trained (spec gella c, g).

    Fresh are [SEG], whose rows are the mean of the others, LoRA of rank 8 unless `sizes` has `lora_r`, ResoBlend, the
    association, and what the files do not bring to the mask branch. Rows of the vocabulary's padding are dropped, so
    that [SEG] is 32000 with LLaVA's own files, and 32002 behind "<image>" and "<pad>" with those of Hugging Face. All
    of that is in the report.

    Args:
        language_model: a LLaVA or LLaVA-1.5 folder, of the original layout or of Hugging Face's.
        vision_tower: a CLIP folder; needed where the other has no tower inside, used instead where it has.
        mask2former_file: Mask2Former or an EntitySeg model with a Swin, detectron2's `.pkl` or `.pth` or a folder of
            transformers. Its Swin is the backbone unless another one is given or asked for; a head for other classes
            than entities is left out.
        backbone_file: a Swin, of its release or of transformers, or a MobileNetV2, of torchvision or of transformers.
        backbone_name: "swin_t", "swin_l" or "mobilenet_v2": takes the Swin of `mask2former_file` only if it is that
            one, and makes a fresh one otherwise. None: takes any; a fresh one is a Swin-T.
        preset: variant of ResoBlend, "paper", "skip" or "mask_query".
        sizes: a JSON file, see `gella_jax.sizes`.
        template: conversation template; `vicuna_v1` when neither this nor `sizes` names one.
        seed: random seed of the weights that are new.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or does not fit.
    """
    if preset not in BLENDS:
        raise CheckpointError(f"preset {preset}: unknown, known are {', '.join(BLENDS)}")
    given = read_sizes(sizes, KEYS, GellaConfig)
    values = given["gella"] | ({} if template is None else {"template": template})
    check_template(values.get("template", GellaConfig.template), TEMPLATES)
    side = import_parts.language_side(language_model, vision_tower, given, seed)
    branch = import_parts.mask_branch(mask2former_file, backbone_file, backbone_name, given, seed)
    config = _new_config(side, branch, preset, given, values)
    leaves = {
        **side.leaves,
        **branch.leaves,
        **prefixed("blend/", fresh.drawn(resoblend.init, config.blend, seed, "blend")),
        **prefixed("association/", fresh.drawn(association.init, config.association, seed, "association")),
    }
    told = {**side.public, "mask2former": branch.public, "gella": {**side.public["gella"], **values}}
    files = filter(None, (language_model, vision_tower, mask2former_file, backbone_file))
    _check(leaves, config, " + ".join(map(str, files)))
    made = (f"fresh: ResoBlend ({preset})", f"fresh: the association ({config.association.kind})")
    closing = (*assumed(config, KEYS, UNTOLD, given, told), *closing_lines(config, leaves, given))
    return Checkpoint(config, _ordered(leaves), side.tokenizer, (*side.report, *branch.report, *made, *closing))


def open_exported(exported: epath.PathLike) -> Checkpoint:
    """What `export` wrote, as it was: a trained GELLA whose parts may have gone through PyTorch in between.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or does not fit.
    """
    exported = epath.Path(exported)
    leaves = folder.open_folder(exported / OWN)
    config, tokenizer = folder.read_config(GellaConfig, exported / OWN), tokenizers.load_tokenizer(exported / OWN)
    layout, _ = open_layout(exported / "llava", ("llava", "llava-hf"))
    for name, one in parts(config, "hf" if layout == "llava-hf" else "original").items():
        leaves |= one.table.to_ours(open_weights(exported / name), str(exported / name))
    report = []
    if leaves["llama/embed/embedding"].shape[0] > tokenizer.vocab_size:  # Hugging Face's row for the picture
        leaves, report = fresh.resized_vocabulary(leaves, range(tokenizer.vocab_size), fresh.zero_rows, "zeros")
    _check(leaves, config, str(exported))
    return Checkpoint(config, _ordered(leaves), tokenizer, tuple(report + closing_lines(config, leaves, Sizes())))


def load(checkpoint: epath.PathLike, dtype: np.dtype | None = None) -> tuple[GellaConfig, dict, Tokenizer]:
    """Config, parameters and tokenizer of a model folder; see `folder.load` for `dtype`."""
    leaves = folder.open_folder(checkpoint)
    config, tokenizer = folder.read_config(GellaConfig, checkpoint), tokenizers.load_tokenizer(checkpoint)
    _check(leaves, config, str(checkpoint))
    check_tokenizer(tokenizer, config.llama.vocab_size, str(checkpoint))
    return config, folder.to_params(leaves, dtype), tokenizer


def export(
    checkpoint: epath.PathLike,
    layout: str,
    out: epath.PathLike,
    merge_lora: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes the parts of a model folder for the PyTorch code: the inverse of importing, bit for bit.

    In the folder `out`, with the layout "original":

        llava/            as LLaVA's release has it, without the tower
        clip/             the tower, as Hugging Face has it
        mask2former.pth   as detectron2 has it, the Swin with it
    or with "hf", everything as Hugging Face's transformers read it:
        llava/            with the tower; where the vocabulary has no "<image>", its id is one row more, of zeros
        mask2former/      the Swin with it
    and with both:
        backbone.pth or backbone/   a MobileNetV2, in torchvision's naming or, of the other convention, Hugging Face's
        gella/            ResoBlend, association, config.json, tokenizer.json, and LoRA, which is not in `llava`

    Args:
        checkpoint: a model folder.
        layout: "original" or "hf".
        out: a folder; nothing that exists is overwritten.
        merge_lora: fold LoRA into q and v of `llava` instead.
        progress: told the bytes written.

    Raises:
        CheckpointError: the layout is unknown or has no place for this model, or something is there already.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"layout {layout}: unknown, known are {' and '.join(LAYOUTS)}")
    out, leaves = epath.Path(out), folder.open_folder(checkpoint)
    config, tokenizer = folder.read_config(GellaConfig, checkpoint), tokenizers.load_tokenizer(checkpoint)
    if config.blend is None:
        raise CheckpointError(f"{checkpoint}: was trained on colormaps alone; only a whole GELLA is exported")
    if merge_lora and has_lora(leaves):
        leaves = merged(leaves, config.llama.lora_scale)
        config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora_rank=0))
    own = {path: leaf for path, leaf in leaves.items() if _is_own(path)}
    if layout == "hf" and llava.image_token(tokenizer) == tokenizer.vocab_size:
        rows = (*range(tokenizer.vocab_size), -1)
        leaves, _ = fresh.resized_vocabulary(leaves, rows, fresh.zero_rows, "zeros")
    tensors = {name: part.to_torch(leaves, str(checkpoint)) for name, part in parts(config, layout).items()}
    for name in (*tensors, OWN):
        if (out / name).exists():
            raise CheckpointError(f"{out / name}: already exists; remove it or choose another name")
    public = _public_configs(config, layout, tokenizer, leaves)
    told = _shared_progress(progress, [*tensors.values(), own])
    for name, content in tensors.items():
        _write_part(out / name, content, layout, next(told))
        if name == "llava":
            tokenizer.save(out / name)
        if name in public:
            write_json(out / name / folder.CONFIG_FILE, public[name], indent=2)
    folder.save(out / OWN, own, config.to_json(), tokenizer.save, next(told))


class Part(NamedTuple):
    """A part of an export: the names of its tensors, and how the paths of its leaves begin."""

    table: Table
    prefixes: tuple[str, ...]

    def to_torch(self, leaves: Mapping[str, LazyTensor], where: str) -> dict[str, LazyTensor]:
        mine = {path: leaf for path, leaf in leaves.items() if path.startswith(self.prefixes) and not _is_own(path)}
        return self.table.to_torch(mine, where)


def parts(config: GellaConfig, layout: str) -> dict[str, Part]:
    """The files (.pth) and folders of an export, but for `OWN`."""
    hf, backbone = layout == "hf", config.backbone
    named = {} if config.blend is None else _language_parts(config, hf)
    name = "mask2former" if hf else "mask2former.pth"
    if isinstance(backbone, SwinConfig):
        table = mask2former.transformers_with_swin if hf else mask2former.original_with_swin
        return {**named, name: Part(table("mask2former/"), ("mask2former/", "backbone/"))}
    decoders = mask2former.transformers() if hf else mask2former.original()
    named[name] = Part(decoders.prefixed("", "mask2former/"), ("mask2former/",))
    # The naming says which convention the weights follow.
    of_torchvision = MobileNetConfig.torchvision(stem=backbone.stem, widths=backbone.widths, head=backbone.head)
    table = mobilenet.torchvision() if backbone == of_torchvision else mobilenet.transformers()
    name = "backbone.pth" if backbone == of_torchvision else "backbone"
    return {**named, name: Part(table.prefixed("", "backbone/"), ("backbone/",))}


def _language_parts(config: GellaConfig, hf: bool) -> dict[str, Part]:
    """The language model and its eyes."""
    if hf and config.projector == "linear":
        raise CheckpointError("layout hf: has no place for a projector of one layer; use original")
    if hf:
        whole = llava.transformers() + llava.transformers_tower()
        return {"llava": Part(whole, ("llama/", "projector/", "clip/"))}
    return {
        "llava": Part(llava.original(config.projector), ("llama/", "projector/")),
        "clip": Part(clip.table().prefixed("", "clip/"), ("clip/",)),
    }


def _public_configs(
    config: GellaConfig, layout: str, tokenizer: Tokenizer, leaves: Mapping[str, LazyTensor]
) -> dict[str, dict[str, Any]]:
    """The config.json of each part that has one in PyTorch's code."""
    paths = {"llama": "embed/embedding", "clip": "pos_embed", "mask2former": "transformer_decoder/query_feat"}
    dtypes = {part: leaves[f"{part}/{path}"].dtype for part, path in paths.items()}
    reader = dataclasses.replace(config.llama, vocab_size=leaves["llama/embed/embedding"].shape[0])
    read = dict(vision_layer=config.vision_layer, tokenizer=tokenizer, dtype=dtypes["llama"])
    out = {}
    if layout == "original":
        out["llava"] = llava.public_original(reader, config.clip, config.projector, **read)
        out["clip"] = clip.public(config.clip, dtypes["clip"])
    else:
        out["llava"] = llava.public_transformers(reader, config.clip, **read)
    if isinstance(config.backbone, MobileNetConfig):
        out["backbone"] = mobilenet.public(config.backbone, leaves["backbone/stem/kernel"].dtype)
    else:
        out["mask2former"] = mask2former.public(config.mask2former, config.backbone, dtypes["mask2former"])
    return out


def _write_part(out: epath.Path, tensors: Mapping[str, LazyTensor], layout: str, progress: Progress | None) -> None:
    """A file or folder of torch, or a folder of safetensors."""
    if out.suffix == ".pth":
        write_torch(out, tensors, progress)
        return
    out.mkdir(parents=True, exist_ok=True)
    write = write_torch_shards if layout == "original" and out.name == "llava" else write_safetensors
    write(out, tensors, progress)


def _shared_progress(
    progress: Progress | None, groups: Sequence[Mapping[str, LazyTensor]]
) -> Iterator[Progress | None]:
    """For each group of tensors in turn, a function that is told of its bytes and tells `progress` of all bytes."""
    sizes = [sum(tensor.nbytes for tensor in group.values()) for group in groups]
    for before in itertools.accumulate(sizes[:-1], initial=0):
        yield None if progress is None else lambda done, _, before=before: progress(before + done, sum(sizes))


def _is_own(path: str) -> bool:
    """Whether a leaf has no place in a public layout."""
    return path.startswith(("blend/", "association/")) or path.endswith(("/lora_a", "/lora_b"))


def _check(leaves: Mapping[str, LazyTensor], config: GellaConfig, where: str) -> None:
    """Holds every leaf against the config, whose sizes may be any, and in the names of the original layout."""
    with about(where):
        check_template(config.template, TEMPLATES)
        if config.blend is not None:
            llama.config(part(leaves, "llama/"), {}, where, **dataclasses.asdict(config.llama))
            clip.config(part(leaves, "clip/"), {}, where, **dataclasses.asdict(config.clip))
        mask2former.config(part(leaves, "mask2former/"), **dataclasses.asdict(config.mask2former))
        backbone = part(leaves, "backbone/")
        if isinstance(config.backbone, SwinConfig):
            swin.config(backbone, **dataclasses.asdict(config.backbone))
        elif mobilenet.config(backbone, config.backbone) != config.backbone:
            raise CheckpointError("the backbone has other widths than the config")
    expected = expected_shapes(model.init, config)
    own = Table(tuple(Rule(path, path) for path in expected if _is_own(path)))
    whole = functools.reduce(operator.add, (part.table for part in parts(config, "original").values()), own)
    whole.check_shapes(leaves, expected, where)


def _ordered(leaves: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """In one order, however a model was put together: equal models are equal files."""
    return {path: leaves[path] for path in sorted(leaves)}


def _new_config(
    side: import_parts.LanguageSide, branch: import_parts.MaskBranch, preset: str, given: Sizes, values: dict[str, Any]
) -> GellaConfig:
    """Config of a new model; `values` are fields that the user gave."""
    usual = {"model_max_length": side.llama.max_positions}
    if side.vision_layer is not None:
        usual["vision_layer"] = side.vision_layer
    blend = {"image_width": side.clip.width, **given["blend"]}
    return GellaConfig(
        llama=side.llama,
        clip=side.clip,
        projector=side.projector,
        backbone=branch.backbone,
        mask2former=branch.mask2former,
        blend=getattr(ResoBlendConfig, preset)(branch.mask2former.channels, **blend),
        association=AssociationConfig(side.llama.width, branch.mask2former.width, **given["association"]),
        **usual | values,
    )
