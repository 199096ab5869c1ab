"""LLaMA in the naming of Hugging Face and PEFT (spec gsva b.1, b.2, b.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import llama as llama_model
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import read_part
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.sizes import check_public, fitted, read_fields, read_object
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from grounding_jax.weights.transforms import LINEAR

_LORA_PROJECTIONS = ("q", "v")


def load(path: epath.PathLike, dtype: np.dtype | None = None, **sizes: Any) -> tuple[LlamaConfig, dict]:
    """A published LLaMA: its sizes, and the parameters for `models.llama`.

    Args:
        path: a folder in Hugging Face's layout; or a file of weights, if `heads` is given.
        dtype: dtype of the parameters; None: as in the file.
        **sizes: fields of `LlamaConfig` that win over shapes and config.json.

    Raises:
        FileNotFoundError, CheckpointError: in one line, what is missing, damaged or no LLaMA.
    """
    _, tensors = open_layout(path, ("LLaMA",))
    leaves = table(lora=False).to_ours(tensors, str(path))
    found = config(leaves, folder.read_public(path), str(epath.Path(path) / folder.CONFIG_FILE), **sizes)
    return read_part(table(lora=False), leaves, llama_model.init, found, path, dtype)


def table(lora: bool) -> Table:
    """`model.*` and `lm_head.weight` against our `llama` tree; `lora` adds the adapters of q and v.

    PEFT 0.4.0 keeps the plain name for the frozen weight beside an adapter; newer ones insert `base_layer`,
    which is accepted and written back under the old name.
    """
    rules = [
        Rule("model.embed_tokens.weight", "embed/embedding"),
        Rule("model.norm.weight", "norm/scale"),
        Rule("lm_head.weight", "head/kernel", LINEAR),
        Rule("model.layers.{i}.input_layernorm.weight", "layers/attn_norm/scale"),
        Rule("model.layers.{i}.post_attention_layernorm.weight", "layers/mlp_norm/scale"),
    ]
    for name in ("q", "k", "v", "o"):
        torch = f"model.layers.{{i}}.self_attn.{name}_proj"
        adapted = lora and name in _LORA_PROJECTIONS
        aliases = (f"{torch}.base_layer.weight",) if adapted else ()
        rules.append(Rule(f"{torch}.weight", f"layers/attn/{name}/kernel", LINEAR, aliases))
        if adapted:
            rules.append(Rule(f"{torch}.lora_A.default.weight", f"layers/attn/{name}/lora_a", LINEAR))
            rules.append(Rule(f"{torch}.lora_B.default.weight", f"layers/attn/{name}/lora_b", LINEAR))
    for name in ("gate", "up", "down"):
        rules.append(Rule(f"model.layers.{{i}}.mlp.{name}_proj.weight", f"layers/mlp/{name}/kernel", LINEAR))
    return Table(tuple(rules), ignored=("model.*rotary_emb.inv_freq",))


def config(leaves: Mapping[str, LazyTensor], public: Mapping[str, Any], where: str, **sizes: Any) -> LlamaConfig:
    """The sizes of a LLaMA from the shapes of its leaves and from what shapes can't tell.

    Args:
        leaves: our leaves by path.
        public: a Hugging Face config.json (heads, eps, theta, positions); may be empty if `sizes` has heads.
        where: names that file in errors.
        **sizes: fields of `LlamaConfig` that win over both.

    Raises:
        CheckpointError: the heads are nowhere, `public` is of another model, or asks for rope scaling.
        ValueError: `sizes` contradict the shapes.
    """
    vocabulary, width = leaves["embed/embedding"].shape
    layers, _, hidden = leaves["layers/mlp/gate/kernel"].shape
    rank = leaves["layers/attn/q/lora_a"].shape[-1] if "layers/attn/q/lora_a" in leaves else 0
    seen = {"hidden_size": width, "intermediate_size": hidden, "num_hidden_layers": layers}
    check_public(public, seen, where)
    names = {"heads": "num_attention_heads", "eps": "rms_norm_eps", "max_positions": "max_position_embeddings"}
    found = dict(vocab_size=vocabulary, width=width, hidden=hidden, layers=layers, lora_rank=rank)
    values = read_fields(public, names, LlamaConfig, where) | _rope(public, where) | sizes
    if "heads" not in values:
        raise CheckpointError(f"{where}: num_attention_heads is missing, and weights can't tell it (heads in --sizes)")
    if not 0 < values["heads"] <= width or width % values["heads"]:
        raise CheckpointError(f"{where}: {values['heads']} heads don't divide the width {width} of the weights")
    key_width = leaves["layers/attn/k/kernel"].shape[-1]
    values.setdefault("kv_heads", key_width * values["heads"] // width)
    return fitted(LlamaConfig, found, values)


def public(config: LlamaConfig, tokenizer: Tokenizer, dtype: np.dtype) -> dict[str, Any]:
    """The part of a Hugging Face config.json that is about the language model."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": config.eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.max_positions,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos,
        "eos_token_id": tokenizer.eos,
        "pad_token_id": tokenizer.unk,
        "torch_dtype": str(dtype),
    }


def _rope(public: Mapping[str, Any], where: str) -> dict[str, float]:
    """The base of the rotary angles, which newer versions of transformers write into `rope_parameters`."""
    rope = read_object(public, "rope_parameters", where) or read_object(public, "rope_scaling", where)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{where}: rotary positions of type {kind} are not supported, only the default")
    return read_fields({**rope, **public}, {"rope_theta": "rope_theta"}, LlamaConfig, where)
