"""GSVA's checkpoints: official files, LISA, LLaVA, CLIP and SAM in, and back out (spec gsva b)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.files.writing import write_json
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import REJ_TEXT, TOKENS, Tokenizer
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
from grounding_jax.weights.delta import add_delta
from grounding_jax.weights.layouts import PUBLIC, open_layout
from grounding_jax.weights.lora import has_lora, merged
from grounding_jax.weights.readers.json_reader import read_json
from grounding_jax.weights.rules import layer
from grounding_jax.weights.sizes import Sizes, about, assumed, read_fields, read_sizes
from grounding_jax.weights.table import Table
from grounding_jax.weights.tables import clip, llama, llava, sam
from grounding_jax.weights.tables.llava import VISION_TOWER
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, Weights
from grounding_jax.weights.writers import Progress, write_torch, write_torch_shards
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.prompts import TEMPLATES
from gsva_jax.sizes import KEYS, UNTOLD

PEFT_PREFIX = "base_model.model."
_LAYOUTS = (("official", (PEFT_PREFIX,)), ("lisa", ("model.visual_model.", "model.layers.")), *PUBLIC)
# LISA never rejects; a GSVA exported that way does.
_LISA_TOKENS = tuple(token for token in TOKENS if token != REJ_TEXT)


def official_table(lora: bool) -> Table:
    """Names of a `gsva-*.bin` (spec gsva b.1)."""
    return (lisa_table(lora) + clip.table().prefixed(VISION_TOWER, "clip/")).prefixed(PEFT_PREFIX, "")


def lisa_table(lora: bool = False) -> Table:
    """Names of a LISA folder, which has no vision tower (spec gsva b.2)."""
    prompt_mlp = (
        *layer("model.text_hidden_fcs.0.0", "prompt_mlp/fc1"),
        *layer("model.text_hidden_fcs.0.2", "prompt_mlp/fc2"),
    )
    segmenter = sam.table().prefixed("model.visual_model.", "sam/")
    return llava.original("linear", lora) + Table(prompt_mlp) + segmenter


def open_official(
    weights: epath.PathLike,
    language_model: epath.PathLike,
    vision_tower: epath.PathLike | None = None,
    sizes: epath.PathLike | None = None,
    template: str | None = None,
) -> Checkpoint:
    """An official GSVA checkpoint (spec gsva b.1).

    Args:
        weights: `gsva-*.bin`, or the same as safetensors.
        language_model: the LLaVA folder it was trained from: tokenizer and config.json.
        vision_tower: a CLIP folder; only its config.json is read, for what shapes can't tell.
        sizes: a JSON file, see `gsva_jax.sizes`.
        template: conversation template; `llava_v1` when neither this nor `sizes` names one.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or does not fit.
    """
    tensors = _open(weights, "official")
    leaves = official_table(_has_lora_names(tensors)).to_ours(tensors, str(weights))
    leaves, frozen, dropped = _fitting_tokenizer(leaves, language_model, weights, tokens=(TOKENS,))
    given = read_sizes(sizes, KEYS, GsvaConfig)
    report = [*tensors.report, *dropped]
    config = _find_config(leaves, language_model, vision_tower, given, template, str(weights), report)
    return _checkpoint(config, leaves, frozen, given, str(weights), report)


def open_lisa(
    weights: epath.PathLike,
    language_model: epath.PathLike,
    vision_tower: epath.PathLike,
    sizes: epath.PathLike | None = None,
    template: str | None = None,
) -> Checkpoint:
    """A folder in LISA's layout (spec gsva b.2): LISA itself, or a GSVA exported that way.

    Arguments as for `open_official`, but the weights of the vision tower come from its own folder. Whether
    there is a [REJ] is told by the number of token rows.
    """
    tensors, tower = _without_tower(_open(weights, "lisa"), vision_tower), _open_clip(vision_tower)
    leaves = lisa_table().to_ours(tensors, str(weights)) | tower
    leaves, frozen, dropped = _fitting_tokenizer(leaves, language_model, weights, tokens=(_LISA_TOKENS, TOKENS))
    given = read_sizes(sizes, KEYS, GsvaConfig)
    report = [*tensors.report, *tower.report, *dropped]
    config = _find_config(leaves, language_model, vision_tower, given, template, str(weights), report)
    return _checkpoint(config, leaves, frozen, given, str(weights), report)


def open_llava(
    language_model: epath.PathLike,
    vision_tower: epath.PathLike,
    sam_file: epath.PathLike,
    sizes: epath.PathLike | None = None,
    template: str | None = None,
    base: epath.PathLike | None = None,
    seed: int = 0,
) -> Checkpoint:
    """A new GSVA from its published parts, to be trained (spec gsva a.5, a.6).

    The projector of LLaVA is kept (the release loses it, spec gsva h.1). Fresh are the rows of new tokens,
    LoRA of rank 8 unless `sizes` has `lora_r`, and the MLP to SAM's prompts; the report lists them.

    Args:
        language_model: a LLaVA folder; with `base`, the folder of a LLaVA delta.
        vision_tower: a CLIP folder.
        sam_file: `sam_vit_*.pth`.
        sizes, template: as for `open_official`.
        base: the LLaMA folder to which the delta is added, or None.
        seed: random seed of the weights that are new.
    """
    tensors = _open(language_model, "llava")
    if base is not None:
        added = _open(base, "LLaMA")
        whole = add_delta(added, tensors, f"{base} + {language_model}")
        tensors = Weights(whole, added.report + tensors.report)
    tensors, tower = _without_tower(tensors, vision_tower), _open_clip(vision_tower)
    leaves = llava.original("linear").to_ours(tensors, str(language_model)) | tower
    segmenting = _open(sam_file, "SAM")
    segmenter = sam.table().to_ours(segmenting, str(sam_file))
    leaves |= prefixed("sam/", segmenter)
    report = [*tensors.report, *tower.report, *segmenting.report]
    frozen, given = tokenizers.freeze(language_model), read_sizes(sizes, KEYS, GsvaConfig)
    how = f"from N(0, {fresh.INITIALIZER_RANGE})"
    leaves, resizing = fresh.resized_vocabulary(leaves, range(frozen.vocab_size), fresh.normal_rows(seed), how)
    rank = given["llama"].get("lora_rank", fresh.LORA_RANK)
    width, prompt_width = leaves["llama/norm/scale"].shape[0], segmenter["prompt_encoder/no_mask"].shape[0]
    leaves |= fresh.lora(leaves, rank, seed)
    leaves |= fresh.linear("prompt_mlp/fc1", width, width, seed)
    leaves |= fresh.linear("prompt_mlp/fc2", width, prompt_width, seed)
    report += [
        *resizing,
        f"fresh: LoRA of rank {rank}",
        "fresh: the MLP from the language model to SAM's prompts",
    ]
    where = f"{language_model} + {vision_tower} + {sam_file}"
    config = _find_config(leaves, language_model, vision_tower, given, template, where, report)
    return _checkpoint(config, leaves, frozen, given, where, report)


def load(checkpoint: epath.PathLike, dtype: np.dtype | None = None) -> tuple[GsvaConfig, dict, Tokenizer]:
    """Config, parameters and tokenizer of a model folder; see `folder.load` for `dtype`."""
    leaves = folder.open_folder(checkpoint)
    config, tokenizer = folder.read_config(GsvaConfig, checkpoint), tokenizers.load_tokenizer(checkpoint)
    _check(leaves, config, str(checkpoint))
    check_tokenizer(tokenizer, config.llama.vocab_size, str(checkpoint))
    return config, folder.to_params(leaves, dtype), tokenizer


def export(
    checkpoint: epath.PathLike,
    layout: str,
    out: epath.PathLike,
    merge_lora: bool | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a model folder for the PyTorch code: the inverse of importing, bit for bit.

    Args:
        checkpoint: a model folder.
        layout: "official" (one torch file) or "lisa" (a folder of sharded torch files with config.json and
            tokenizer.json, without the vision tower).
        out: the file or the folder; nothing that exists is overwritten.
        merge_lora: fold LoRA into q and v. None: keep it in "official", fold it in "lisa", which has no place
            for it.
        progress: told the bytes written.
    """
    if layout not in ("official", "lisa"):
        raise CheckpointError(f"layout {layout}: unknown, known are official and lisa")
    if layout == "lisa" and merge_lora is False:
        raise CheckpointError("layout lisa: has no place for LoRA, it can only be merged")
    leaves, config = folder.open_folder(checkpoint), folder.read_config(GsvaConfig, checkpoint)
    if has_lora(leaves) and (merge_lora or layout == "lisa"):
        leaves = merged(leaves, config.llama.lora_scale)
    if layout == "official":
        _write_official(epath.Path(out), leaves, str(checkpoint), progress)
    else:
        _write_lisa(epath.Path(out), leaves, config, epath.Path(checkpoint), progress)


def _write_official(out: epath.Path, leaves: Mapping[str, LazyTensor], where: str, progress: Progress | None) -> None:
    if out.exists():
        raise CheckpointError(f"{out}: already exists; remove it or choose another name")
    tensors = official_table(has_lora(leaves)).to_torch(leaves, where)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_torch(out, tensors, progress)


def _write_lisa(
    out: epath.Path,
    leaves: Mapping[str, LazyTensor],
    config: GsvaConfig,
    checkpoint: epath.Path,
    progress: Progress | None,
) -> None:
    folder.check_free(out)
    frozen = tokenizers.load_tokenizer(checkpoint)
    without_tower = {path: leaf for path, leaf in leaves.items() if not path.startswith("clip/")}
    tensors = lisa_table().to_torch(without_tower, str(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    write_torch_shards(out, tensors, progress)
    frozen.save(out)
    public = _public_config(config, frozen, leaves["llama/layers/attn/q/kernel"].dtype)
    write_json(out / folder.CONFIG_FILE, public, indent=2)


def _open(path: epath.PathLike, layout: str) -> Weights:
    """The tensors of a checkpoint that must be of a given layout."""
    return open_layout(path, (layout,), _LAYOUTS)[1]


def _open_clip(path: epath.PathLike) -> Weights:
    tower = _open(path, "CLIP")
    return Weights(prefixed("clip/", clip.table().to_ours(tower, str(path))), tower.report)


def _without_tower(tensors: Weights, instead: epath.PathLike) -> Weights:
    """Leaves out a vision tower inside a folder, and says so: the one of its own folder is used."""
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(VISION_TOWER)}
    count = len(tensors) - len(kept)
    line = f"left out: {count} tensors of the vision tower inside, {instead} is used"
    return Weights(kept, (*tensors.report, line) if count else tensors.report)


def _fitting_tokenizer(
    leaves: Mapping[str, LazyTensor],
    language_model: epath.PathLike,
    weights: epath.PathLike,
    tokens: tuple[tuple[str, ...], ...],
) -> tuple[dict[str, LazyTensor], Tokenizer, list[str]]:
    """The tokenizer with as many tokens as the weights have rows (spec gsva a.5); else an error with both.

    Rows of zeros at the end are padding, which is taken away; the report says so.
    """
    rows, made = leaves["llama/embed/embedding"].shape[0], {}
    for wanted in tokens:
        frozen = tokenizers.freeze(language_model, wanted)
        if frozen.vocab_size == rows:
            return dict(leaves), frozen, []
        made[frozen.vocab_size] = frozen
    if frozen := made.get(rows - fresh.num_zero_rows(leaves)):
        leaves, dropped = fresh.resized_vocabulary(leaves, range(frozen.vocab_size), fresh.zero_rows, "zeros")
        return leaves, frozen, dropped
    own = [token for token in tokens[0] if token.startswith("[")]
    raise CheckpointError(
        f"{weights}: has {rows} token rows, the tokenizer of {language_model} makes {next(iter(made))} "
        f"tokens with {', '.join(own)}, <im_start>, <im_end>; it was trained with one of "
        f"{rows - len(own)} tokens including <im_start> and <im_end>, or {rows - len(own) - 2} without them"
        + ("; where its last rows are padding, they should be zeros" if rows > max(made) else "")
    )


def _find_config(
    leaves: Mapping[str, LazyTensor],
    language_model: epath.PathLike,
    vision_tower: epath.PathLike | None,
    given: Sizes,
    template: str | None,
    where: str,
    report: list[str],
) -> GsvaConfig:
    """The config of `leaves`: what shapes tell, what public config.json files say, above both `given`.

    What none of them tells is added to the report.
    """
    llava_file = epath.Path(language_model) / folder.CONFIG_FILE
    public = folder.read_public(language_model)
    tower_file = epath.Path(vision_tower or "") / folder.CONFIG_FILE
    tower = read_json(tower_file) if vision_tower is not None else {}
    llama_sizes = given["llama"]
    if not has_lora(leaves):
        llama_sizes.pop("lora_rank", None)  # a size of new adapters; these weights are merged or never had any
    values = given["gsva"]
    values = read_fields(public, {"select_layer": "mm_vision_select_layer"}, GsvaConfig, str(llava_file)) | values
    if template is not None:
        values["template"] = template
    with about(where):
        check_template(values.get("template", GsvaConfig.template), TEMPLATES)
        config = GsvaConfig(
            llama=llama.config(part(leaves, "llama/"), public, str(llava_file), **llama_sizes),
            clip=clip.config(part(leaves, "clip/"), tower, str(tower_file), **given["clip"]),
            sam=sam.config(part(leaves, "sam/"), **given["sam"]),
            **values,
        )
    told = {"llama": public, "clip": tower.get("vision_config", tower), "gsva": {**public, **values}}
    report += assumed(config, KEYS, UNTOLD, given, told)
    return config


def _checkpoint(
    config: GsvaConfig,
    leaves: dict[str, LazyTensor],
    frozen: Tokenizer,
    given: Sizes,
    where: str,
    report: list[str],
) -> Checkpoint:
    """Holds every leaf against the config, and completes the report."""
    _check(leaves, config, where)
    return Checkpoint(config, leaves, frozen, tuple(report + closing_lines(config, leaves, given)))


def _check(leaves: Mapping[str, LazyTensor], config: GsvaConfig, where: str) -> None:
    """Raises CheckpointError unless the leaves are those of the config, whose sizes may be any."""
    with about(where):
        check_template(config.template, TEMPLATES)
        llama.config(part(leaves, "llama/"), {}, where, **dataclasses.asdict(config.llama))
        clip.config(part(leaves, "clip/"), {}, where, **dataclasses.asdict(config.clip))
        sam.config(part(leaves, "sam/"), **dataclasses.asdict(config.sam))
    official_table(has_lora(leaves)).check_shapes(leaves, expected_shapes(model.init, config), where)


def _public_config(config: GsvaConfig, frozen: Tokenizer, dtype: np.dtype) -> dict[str, Any]:
    """A config.json as LISA's folders have it (spec gsva b.2), as far as our config knows it."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **llama.public(config.llama, frozen, dtype),
        "mm_hidden_size": config.clip.width,
        "mm_vision_select_layer": config.select_layer,
        "mm_use_im_start_end": frozen.im_start is not None,
        "train_mask_decoder": True,
        "out_dim": config.sam.prompt_width,
    }


def _has_lora_names(keys: Iterable[str]) -> bool:
    return any(".lora_A." in key for key in keys)
