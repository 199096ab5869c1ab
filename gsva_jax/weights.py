"""GSVA's checkpoints: official files, LISA, LLaVA, CLIP and SAM in, and back out (spec gsva b)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import REJ_TEXT, TOKENS, Tokenizer
from grounding_jax.weights import clip, folder, fresh, llama, llava, sam
from grounding_jax.weights.checkpoint import (
    Checkpoint,
    check_template,
    closing_lines,
    expected_shapes,
    part,
    prefixed,
)
from grounding_jax.weights.delta import add_delta
from grounding_jax.weights.layouts import PUBLIC, open_layout
from grounding_jax.weights.llava import VISION_TOWER
from grounding_jax.weights.lora import has_lora, merged
from grounding_jax.weights.readers import open_weights, read_json
from grounding_jax.weights.rules import layer
from grounding_jax.weights.sizes import Sizes, read_sizes
from grounding_jax.weights.table import Table
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.writers import Progress, write_torch, write_torch_shards
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.prompts import TEMPLATES
from gsva_jax.sizes import KEYS

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
    frozen = _fitting_tokenizer(leaves, language_model, weights, tokens=(TOKENS,))
    given = read_sizes(sizes, KEYS)
    config = _find_config(leaves, language_model, vision_tower, given, template)
    return _checkpoint(config, leaves, frozen, given, str(weights), report=[])


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
    tensors, report = _without_tower(_open(weights, "lisa"), vision_tower)
    leaves = lisa_table().to_ours(tensors, str(weights)) | _open_clip(vision_tower)
    frozen = _fitting_tokenizer(leaves, language_model, weights, tokens=(_LISA_TOKENS, TOKENS))
    given = read_sizes(sizes, KEYS)
    config = _find_config(leaves, language_model, vision_tower, given, template)
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
        seed: of everything fresh.
    """
    tensors = _open(language_model, "llava")
    if base is not None:
        tensors = add_delta(open_weights(base), tensors, f"{base} + {language_model}")
    tensors, report = _without_tower(tensors, vision_tower)
    leaves = llava.original("linear").to_ours(tensors, str(language_model)) | _open_clip(vision_tower)
    segmenter = sam.table().to_ours(_open(sam_file, "SAM"), str(sam_file))
    leaves |= prefixed("sam/", segmenter)
    frozen, given = tokenizers.freeze(language_model), read_sizes(sizes, KEYS)
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
    config = _find_config(leaves, language_model, vision_tower, given, template)
    return _checkpoint(config, leaves, frozen, given, f"{language_model} + {vision_tower} + {sam_file}", report)


def load(checkpoint: epath.PathLike, dtype: np.dtype | None = None) -> tuple[GsvaConfig, dict, Tokenizer]:
    """Config, parameters and tokenizer of a model folder; see `folder.load` for `dtype`."""
    leaves = folder.open_folder(checkpoint)
    config = _read_config(checkpoint)
    table = official_table(has_lora(leaves))
    table.check_shapes(leaves, expected_shapes(model.init, config), str(checkpoint))
    return config, folder.to_params(leaves, dtype), tokenizers.load(checkpoint)


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
    leaves, config = folder.open_folder(checkpoint), _read_config(checkpoint)
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
    frozen = tokenizers.load(checkpoint)
    without_tower = {path: leaf for path, leaf in leaves.items() if not path.startswith("clip/")}
    tensors = lisa_table().to_torch(without_tower, str(checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    write_torch_shards(out, tensors, progress)
    frozen.save(out)
    public = _public_config(config, frozen, leaves["llama/layers/attn/q/kernel"].dtype)
    (out / folder.CONFIG_FILE).write_text(json.dumps(public, indent=2) + "\n")


def _open(path: epath.PathLike, layout: str) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint that must be of a given layout."""
    return open_layout(path, (layout,), _LAYOUTS)[1]


def _open_clip(path: epath.PathLike) -> dict[str, LazyTensor]:
    return prefixed("clip/", clip.table().to_ours(_open(path, "CLIP"), str(path)))


def _without_tower(
    tensors: Mapping[str, LazyTensor], instead: epath.PathLike
) -> tuple[dict[str, LazyTensor], list[str]]:
    """Leaves out a vision tower inside a folder, and says so: the one of its own folder is used."""
    kept = {key: tensor for key, tensor in tensors.items() if not key.startswith(VISION_TOWER)}
    count = len(tensors) - len(kept)
    return kept, [f"left out: {count} tensors of the vision tower inside, {instead} is used"] if count else []


def _fitting_tokenizer(
    leaves: Mapping[str, LazyTensor],
    language_model: epath.PathLike,
    weights: epath.PathLike,
    tokens: tuple[tuple[str, ...], ...],
) -> Tokenizer:
    """The tokenizer with as many tokens as the weights have rows (spec gsva a.5); else an error with both."""
    rows = leaves["llama/embed/embedding"].shape[0]
    made = []
    for wanted in tokens:
        frozen = tokenizers.freeze(language_model, wanted)
        if frozen.vocab_size == rows:
            return frozen
        made.append(frozen.vocab_size)
    own = [token for token in tokens[0] if token.startswith("[")]
    raise CheckpointError(
        f"{weights}: has {rows} token rows, the tokenizer of {language_model} makes {made[0]} "
        f"tokens with {', '.join(own)}, <im_start>, <im_end>; it was trained with one of "
        f"{rows - len(own)} tokens including <im_start> and <im_end>, or {rows - len(own) - 2} without them"
    )


def _find_config(
    leaves: Mapping[str, LazyTensor],
    language_model: epath.PathLike,
    vision_tower: epath.PathLike | None,
    given: Sizes,
    template: str | None,
) -> GsvaConfig:
    """The config of `leaves`: what shapes tell, what public config.json files say, above both `given`."""
    llava_file = epath.Path(language_model) / folder.CONFIG_FILE
    public = folder.read_public(language_model)
    tower_file = epath.Path(vision_tower or "") / folder.CONFIG_FILE
    tower = read_json(tower_file) if vision_tower is not None else {}
    llama_sizes = given["llama"]
    if not has_lora(leaves):
        llama_sizes.pop("lora_rank", None)  # a size of new adapters; these weights are merged or never had any
    values = given["gsva"]
    if "mm_vision_select_layer" in public:
        values.setdefault("select_layer", public["mm_vision_select_layer"])
    if template is not None:
        values["template"] = template
    check_template(values.get("template", GsvaConfig.template), TEMPLATES)
    return GsvaConfig(
        llama=llama.config(part(leaves, "llama/"), public, str(llava_file), **llama_sizes),
        clip=clip.config(part(leaves, "clip/"), tower, str(tower_file), **given["clip"]),
        sam=sam.config(part(leaves, "sam/"), **given["sam"]),
        **values,
    )


def _checkpoint(
    config: GsvaConfig,
    leaves: dict[str, LazyTensor],
    frozen: Tokenizer,
    given: Sizes,
    where: str,
    report: list[str],
) -> Checkpoint:
    """Holds every leaf against the config, and completes the report."""
    official_table(has_lora(leaves)).check_shapes(leaves, expected_shapes(model.init, config), where)
    return Checkpoint(config, leaves, frozen, tuple(report + closing_lines(config, leaves, given)))


def _read_config(checkpoint: epath.PathLike) -> GsvaConfig:
    return GsvaConfig.from_json((epath.Path(checkpoint) / folder.CONFIG_FILE).read_text())


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
