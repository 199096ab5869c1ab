"""LLaVA: the language model, the projector and, in some files, CLIP's tower (spec gsva b.4, gella g).

The original layout holds the projector of LLaVA (one layer) or of LLaVA-1.5 (two), and mostly no tower. That of
Hugging Face holds LLaVA-1.5 and the tower.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from etils import epath

from grounding_jax.language.tokenizer import IMAGE_TEXT, Tokenizer
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.weights import folder
from grounding_jax.weights.rules import layer
from grounding_jax.weights.sizes import read_object
from grounding_jax.weights.table import Table
from grounding_jax.weights.tables import clip, llama

VISION_TOWER = "model.vision_tower.vision_tower."  # before CLIP's names in the original layout
PROJECTOR = "model.mm_projector"
# What transformers leaves out of a config.json inside another one, being the defaults of its LlamaConfig.
_HF_DEFAULTS = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 2048,
}


def original(projector: str, lora: bool = False) -> Table:
    """Names of a LLaVA folder without its vision tower against `llama/` and `projector/`.

    Args:
        projector: kind, see `models.llava.projector`.
        lora: whether there are adapters beside q and v.
    """
    if projector == "linear":
        rules = layer(PROJECTOR, "projector")
    else:
        rules = [*layer(f"{PROJECTOR}.0", "projector/fc1"), *layer(f"{PROJECTOR}.2", "projector/fc2")]
    return llama.table(lora).prefixed("", "llama/") + Table(tuple(rules))


def original_tower() -> Table:
    """Names of the tower inside a folder of the original layout against `clip/`."""
    return clip.table().prefixed(VISION_TOWER, "clip/")


def transformers() -> Table:
    """Names of Hugging Face's files without the tower against `llama/` and `projector/`.

    transformers 5 has other names in memory, which are accepted, but not written.
    """
    projector = [
        *layer("multi_modal_projector.linear_1", "projector/fc1"),
        *layer("multi_modal_projector.linear_2", "projector/fc2"),
    ]
    return (llama.table(lora=False).prefixed("language_model.", "llama/") + Table(tuple(projector))).accepting(_newer)


def transformers_tower() -> Table:
    """Names of the tower inside such a folder against `clip/`."""
    return clip.table().prefixed("vision_tower.", "clip/").accepting(_newer)


def is_tower(key: str) -> bool:
    """Whether a name, of either layout, is of the tower inside."""
    return key.startswith((VISION_TOWER, "vision_tower.", "model.vision_tower."))


def read_public(language_model: epath.PathLike) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The folder's config.json as (what is about the language model, all of it, the file's name); {} without one."""
    public = folder.read_public(language_model)
    where = str(epath.Path(language_model) / folder.CONFIG_FILE)
    text = {**_HF_DEFAULTS, **read_object(public, "text_config", where)} if "text_config" in public else public
    return text, public, where


def public_original(
    config: LlamaConfig, eyes: ClipConfig, projector: str, vision_layer: int, tokenizer: Tokenizer, dtype: np.dtype
) -> dict[str, Any]:
    """A config.json of the original layout; its tower is in the folder `clip` beside."""
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        **llama.public(config, tokenizer, dtype),
        "mm_hidden_size": eyes.width,
        "mm_projector_type": projector,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": vision_layer,
        "mm_vision_tower": "clip",
        "mm_use_im_patch_token": False,
        "mm_use_im_start_end": False,
        "use_mm_proj": True,
    }


def public_transformers(
    config: LlamaConfig, eyes: ClipConfig, vision_layer: int, tokenizer: Tokenizer, dtype: np.dtype
) -> dict[str, Any]:
    """The config.json of Hugging Face's `LlavaForConditionalGeneration`."""
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "image_token_index": image_token(tokenizer),
        "image_seq_length": eyes.num_patches,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": vision_layer,
        "vision_feature_select_strategy": "default",
        "text_config": {"model_type": "llama", **llama.public(config, tokenizer, dtype)},
        "vision_config": clip.public(eyes, dtype),
        "tie_word_embeddings": False,
        "torch_dtype": str(dtype),
    }


def image_token(tokenizer: Tokenizer) -> int:
    """The id that Hugging Face's code reads as the picture: that of "<image>", or the first behind the vocabulary."""
    found = tokenizer.backend.token_to_id(IMAGE_TEXT)
    return tokenizer.vocab_size if found is None else found


def _newer(name: str) -> str:
    name = name.replace("language_model.model.", "language_model.", 1)
    lm_head = "language_model.lm_head."
    return name.removeprefix("language_model.") if name.startswith(lm_head) else f"model.{name}"
