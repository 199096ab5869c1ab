"""GSVA's checkpoints: official files, LISA, LLaVA, CLIP and SAM in, and back out (spec gsva b)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.weights import clip, folder, llama, sam
from grounding_jax.weights.delta import add_delta
from grounding_jax.weights.lora import has_lora, merged
from grounding_jax.weights.readers import open_weights, read_json
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.transforms import LINEAR
from grounding_jax.weights.writers import Progress, write_torch, write_torch_shards
from gsva_jax import assemble, model
from gsva_jax.config import GsvaConfig
from gsva_jax.prompts import TEMPLATES
from gsva_jax.sizes import Sizes, read_sizes

PEFT_PREFIX = "base_model.model."
VISION_TOWER = "model.vision_tower.vision_tower."
_FRESH_LORA_RANK = 8
# How a state dict is told apart: the first layout all of whose marks begin some name.
_LAYOUTS = {
    "official": (PEFT_PREFIX,),
    "lisa": ("model.visual_model.", "model.layers."),
    "llava": ("model.mm_projector.", "model.layers."),
    "LLaMA": ("model.layers.",),
    "SAM": ("image_encoder.", "mask_decoder."),
    "CLIP": ("vision_model.",),
}


def official_table(lora: bool) -> Table:
    """Names of a `gsva-*.bin` (spec gsva b.1)."""
    return (lisa_table(lora) + clip.table().prefixed(VISION_TOWER, "clip/")).prefixed(PEFT_PREFIX, "")


def lisa_table(lora: bool = False) -> Table:
    """Names of a LISA folder, which has no vision tower (spec gsva b.2)."""
    return (
        llava_table(lora)
        + Table(
            (
                *_linear("model.text_hidden_fcs.0.0", "prompt_mlp/fc1"),
                *_linear("model.text_hidden_fcs.0.2", "prompt_mlp/fc2"),
            )
        )
        + sam.table().prefixed("model.visual_model.", "sam/")
    )


def llava_table(lora: bool = False) -> Table:
    """Names of a LLaVA folder without its vision tower (spec gsva b.4)."""
    return llama.table(lora).prefixed("", "llama/") + Table(_linear("model.mm_projector", "projector"))


def _linear(torch: str, ours: str) -> tuple[Rule, Rule]:
    return Rule(f"{torch}.weight", f"{ours}/kernel", LINEAR), Rule(f"{torch}.bias", f"{ours}/bias")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole GSVA that is not read yet.

    `leaves` are our leaves by path, `tokenizer` has exactly as many tokens as they have rows, and `report`
    says in words what was found, made fresh or left out.
    """

    config: GsvaConfig
    leaves: dict[str, LazyTensor]
    tokenizer: Tokenizer
    report: tuple[str, ...]

    def save(self, out: epath.PathLike, progress: Progress | None = None) -> None:
        """Writes a model folder; CheckpointError when one is there."""
        folder.save(out, self.leaves, self.config.to_json(), self.tokenizer.save, progress)


def read_official(path: epath.PathLike) -> dict:
    """The parameters of an official checkpoint as nested dicts of numpy arrays, in the dtypes of the file."""
    tensors = open_weights(path)
    return folder.to_params(official_table(_has_lora_names(tensors)).to_ours(tensors, str(path)))


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
    frozen = _fitting_tokenizer(leaves, language_model, weights, rejection=(True,))
    given = read_sizes(sizes)
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
    frozen = _fitting_tokenizer(leaves, language_model, weights, rejection=(False, True))
    given = read_sizes(sizes)
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
    leaves = llava_table().to_ours(tensors, str(language_model)) | _open_clip(vision_tower)
    segmenter = sam.table().to_ours(_open(sam_file, "SAM"), str(sam_file))
    leaves |= {f"sam/{path}": leaf for path, leaf in segmenter.items()}
    frozen, given = tokenizers.freeze(language_model), read_sizes(sizes)
    leaves, resizing = assemble.resized_vocabulary(leaves, frozen.vocab_size, seed)
    rank = given.llama.get("lora_rank", _FRESH_LORA_RANK)
    prompt_width = segmenter["prompt_encoder/no_mask"].shape[0]
    leaves |= assemble.fresh_lora(leaves, rank, seed)
    leaves |= assemble.fresh_prompt_mlp(leaves["llama/norm/scale"].shape[0], prompt_width, seed)
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
    table.check_shapes(leaves, _expected(config), str(checkpoint))
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
    tensors = open_weights(path)
    marks = _LAYOUTS.items()
    found = (name for name, prefixes in marks if all(any(k.startswith(p) for k in tensors) for p in prefixes))
    found = next(found, None)
    if found != layout:
        what = f"the {found} layout" if found else f"no known layout (first name: {next(iter(tensors), 'none')})"
        raise CheckpointError(f"{path}: has {what}, expected {layout}")
    return tensors


def _open_clip(path: epath.PathLike) -> dict[str, LazyTensor]:
    leaves = clip.table().to_ours(_open(path, "CLIP"), str(path))
    return {f"clip/{name}": leaf for name, leaf in leaves.items()}


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
    rejection: tuple[bool, ...],
) -> Tokenizer:
    """The tokenizer with as many tokens as the weights have rows (spec gsva a.5); else an error with both."""
    rows = leaves["llama/embed/embedding"].shape[0]
    made = []
    for wanted in rejection:
        frozen = tokenizers.freeze(language_model, rejection=wanted)
        if frozen.vocab_size == rows:
            return frozen
        made.append(frozen.vocab_size)
    own = ("[SEG]", "[REJ]") if rejection == (True,) else ("[SEG]",)
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
    public = read_json(llava_file) if llava_file.exists() else {}
    tower_file = epath.Path(vision_tower or "") / folder.CONFIG_FILE
    tower = read_json(tower_file) if vision_tower is not None else {}
    llama_sizes = dict(given.llama)
    if not has_lora(leaves):
        llama_sizes.pop("lora_rank", None)  # a size of new adapters; these weights are merged or never had any
    values = dict(given.gsva)
    if "mm_vision_select_layer" in public:
        values.setdefault("select_layer", public["mm_vision_select_layer"])
    if template is not None:
        values["template"] = template
    if values.get("template", GsvaConfig.template) not in TEMPLATES:
        raise CheckpointError(f"template {values['template']}: unknown, known are {', '.join(TEMPLATES)}")
    return GsvaConfig(
        llama=llama.config(_part(leaves, "llama/"), public, str(llava_file), **llama_sizes),
        clip=clip.config(_part(leaves, "clip/"), tower, str(tower_file), **given.clip),
        sam=sam.config(_part(leaves, "sam/"), **given.sam),
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
    official_table(has_lora(leaves)).check_shapes(leaves, _expected(config), where)
    lora = f"rank {config.llama.lora_rank}, alpha {config.llama.lora_alpha}" if has_lora(leaves) else "none"
    report = [*report, f"template: {config.template}", f"LoRA: {lora}"]
    if given.unused:
        report.append(f"sizes that set nothing: {', '.join(given.unused)}")
    return Checkpoint(config, leaves, frozen, tuple(report))


def _part(leaves: Mapping[str, LazyTensor], prefix: str) -> dict[str, LazyTensor]:
    return {path.removeprefix(prefix): leaf for path, leaf in leaves.items() if path.startswith(prefix)}


def _expected(config: GsvaConfig) -> dict[str, tuple[int, ...]]:
    """The shape of every leaf of a model of this config, by path."""
    shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}


def _read_config(checkpoint: epath.PathLike) -> GsvaConfig:
    return GsvaConfig.from_json((epath.Path(checkpoint) / folder.CONFIG_FILE).read_text())


def _public_config(config: GsvaConfig, frozen: Tokenizer, dtype: np.dtype) -> dict[str, Any]:
    """A config.json as LISA's folders have it (spec gsva b.2), as far as our config knows it."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "vocab_size": config.llama.vocab_size,
        "hidden_size": config.llama.width,
        "intermediate_size": config.llama.hidden,
        "num_hidden_layers": config.llama.layers,
        "num_attention_heads": config.llama.heads,
        "num_key_value_heads": config.llama.kv_heads,
        "rms_norm_eps": config.llama.eps,
        "rope_theta": config.llama.rope_theta,
        "max_position_embeddings": config.llama.max_positions,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": frozen.bos,
        "eos_token_id": frozen.eos,
        "pad_token_id": frozen.unk,
        "torch_dtype": str(dtype),
        "mm_hidden_size": config.clip.width,
        "mm_vision_select_layer": config.select_layer,
        "mm_use_im_start_end": frozen.im_start is not None,
        "train_mask_decoder": True,
        "out_dim": config.sam.prompt_width,
    }


def _has_lora_names(keys: Iterable[str]) -> bool:
    return any(".lora_A." in key for key in keys)
