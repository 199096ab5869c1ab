"""LLaMA decoder (Touvron et al. 2023, arXiv:2302.13971; grouped queries of Llama 2) with LoRA and a KV cache.

Training, prefill and decoding are one function: `Decoder` reads embeddings at given positions under a given mask, and
where a cache is passed it writes its keys and values there at a given slot and attends to the whole cache.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from grounding_jax.models.attention import attention, branch_mask
from grounding_jax.models.layers import LECUN, Linear, RMSNorm, merge_heads, split_heads


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a LLaMA decoder.

    Attributes:
        vocab_size: V, rows of the embedding and the head.
        width: D.
        hidden: F, width inside the SwiGLU.
        layers: L.
        heads: N query heads of width K = D / N.
        kv_heads: N_kv key/value heads, a divisor of N.
        eps: epsilon of the RMS norms.
        rope_theta: base of the rotary angles.
        max_positions: context length the weights were trained for.
        lora_rank: rank of the updates of q and v; 0 for none.
        lora_alpha: the update is scaled by lora_alpha / lora_rank.
        lora_dropout: share of the update's inputs that are dropped where `Decoder` is given keys for it.
        remat: "none" keeps all activations for the backward pass, "full" keeps one hidden state a layer.
    """

    vocab_size: int
    width: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 2048
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_dropout: float = 0.0
    remat: str = "none"

    def __post_init__(self):
        if self.remat not in ("none", "full"):
            raise ValueError(f"remat is {self.remat!r}, should be none or full")
        if self.width % self.heads or self.heads % self.kv_heads:
            raise ValueError(f"{self.kv_heads} don't divide {self.heads} heads, or these the width {self.width}")

    @classmethod
    def vicuna_7b(cls, **changes) -> LlamaConfig:
        """Vicuna-7B v1.1 with the LLaVA v1.1 vocabulary and [SEG], [REJ] (spec gsva a.1)."""
        sizes = dict(vocab_size=32005, width=4096, hidden=11008, layers=32, heads=32, kv_heads=32)
        return cls(**{**sizes, **changes})

    @classmethod
    def vicuna_13b(cls, **changes) -> LlamaConfig:
        """Vicuna-13B v1.1 with the LLaVA v1.1 vocabulary and [SEG], [REJ] (spec gsva a.1)."""
        sizes = dict(vocab_size=32005, width=5120, hidden=13824, layers=40, heads=40, kv_heads=40)
        return cls(**{**sizes, **changes})

    @classmethod
    def llama2_13b(cls, **changes) -> LlamaConfig:
        """Llama-2-13B-chat with [SEG], [REJ], <im_start>, <im_end> (spec gsva a.1)."""
        sizes = dict(vocab_size=32004, width=5120, hidden=13824, layers=40, heads=40, kv_heads=40)
        return cls(**{**sizes, "eps": 1e-5, "max_positions": 4096, **changes})

    @property
    def head_width(self) -> int:
        """K."""
        return self.width // self.heads

    @property
    def lora_scale(self) -> float:
        """Factor of the low-rank update."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 0.0

    @property
    def residual_init(self) -> nn.initializers.Initializer:
        """Of the kernels that write to the residual stream: 2 L of them together add about as much as one would."""
        return nn.initializers.variance_scaling(1 / (2 * self.layers), "fan_in", "truncated_normal")


def rotate(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding in the half-split convention of the transformers library.

    Args:
        x: queries or keys ``[B, T, N, K]``.
        positions: int32 ``[B, T]``.
        theta: base of the angles.

    Returns:
        ``[B, T, N, K]`` in the dtype of ``x``; the angles are float32, since bfloat16 cannot count to 2048.
    """
    half = x.shape[-1] // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions[:, :, None, None].astype(jnp.float32) * frequency
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def empty_cache(config: LlamaConfig, batch: int, length: int, dtype=jnp.float32) -> dict[str, jax.Array]:
    """Zero keys and values ``{"k", "v"}``, each ``[L, B, T, N_kv, K]``."""
    shape = (config.layers, batch, length, config.kv_heads, config.head_width)
    return {"k": jnp.zeros(shape, dtype), "v": jnp.zeros(shape, dtype)}


class SelfAttention(nn.Module):
    """Causal self attention with rotary positions; q and v carry the LoRA updates."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        layer: jax.Array,
        cache: dict[str, jax.Array] | None,
        slot: jax.Array | int,
        dropout_keys: jax.Array | None,
    ) -> tuple[jax.Array, dict[str, jax.Array] | None]:
        """``x [B, T, D] -> ([B, T, D], cache)``; with a cache, keys are those of all its slots."""
        c = self.config
        adapted = dict(use_bias=False, lora_rank=c.lora_rank, lora_scale=c.lora_scale, lora_dropout=c.lora_dropout)
        q_keys, v_keys = (None, None) if dropout_keys is None else _layer_keys(dropout_keys, layer)
        q = split_heads(Linear(c.heads * c.head_width, **adapted, name="q")(x, q_keys), c.heads)
        k = split_heads(Linear(c.kv_heads * c.head_width, use_bias=False, name="k")(x), c.kv_heads)
        v = split_heads(Linear(c.kv_heads * c.head_width, **adapted, name="v")(x, v_keys), c.kv_heads)
        q, k = rotate(q, positions, c.rope_theta), rotate(k, positions, c.rope_theta)
        if cache is not None:
            at = (layer, 0, slot, 0, 0)
            cache = {
                "k": jax.lax.dynamic_update_slice(cache["k"], k[None].astype(cache["k"].dtype), at),
                "v": jax.lax.dynamic_update_slice(cache["v"], v[None].astype(cache["v"].dtype), at),
            }
            k, v = cache["k"][layer].astype(q.dtype), cache["v"][layer].astype(q.dtype)
        y = attention(q, k, v, mask=mask)
        return Linear(c.width, use_bias=False, kernel_init=c.residual_init, name="o")(merge_heads(y)), cache


def _layer_keys(keys: jax.Array, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys ``[B]`` of the rows for the two updates of a layer."""
    return tuple(jax.vmap(lambda key: jax.random.fold_in(key, 2 * layer + i))(keys) for i in (0, 1))  # noqa: B023


class FeedForward(nn.Module):
    """SwiGLU: ``down(silu(gate(x)) * up(x))``."""

    config: LlamaConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """``[B, T, D] -> [B, T, D]``."""
        c = self.config
        gate = Linear(c.hidden, use_bias=False, name="gate")(x)
        up = Linear(c.hidden, use_bias=False, name="up")(x)
        return Linear(c.width, use_bias=False, kernel_init=c.residual_init, name="down")(jax.nn.silu(gate) * up)


class Block(nn.Module):
    """Pre-norm residual block, written to be scanned: state and cache are carried, the state is also returned."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        carry: tuple,
        layer: jax.Array,
        positions: jax.Array,
        mask: jax.Array,
        slot: jax.Array | int,
        dropout_keys: jax.Array | None,
    ) -> tuple[tuple, jax.Array]:
        """``(x [B, T, D], cache), layer -> (x, cache), x``."""
        x, cache = carry
        y, cache = SelfAttention(self.config, name="attn")(
            RMSNorm(self.config.eps, name="attn_norm")(x), positions, mask, layer, cache, slot, dropout_keys
        )
        x = x + y
        x = x + FeedForward(self.config, name="mlp")(RMSNorm(self.config.eps, name="mlp_norm")(x))
        return (x, cache), x


class Decoder(nn.Module):
    """The stack of blocks between the embedding and the head, scanned over stacked parameters."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        positions: jax.Array,
        branch: jax.Array,
        *,
        cache: dict[str, jax.Array] | None = None,
        cache_branch: jax.Array | None = None,
        slot: jax.Array | int = 0,
        dropout_keys: jax.Array | None = None,
    ) -> tuple[jax.Array, dict]:
        """Runs the decoder.

        Args:
            x: embeddings ``[B, T, D]``.
            positions: int32 ``[B, T]`` for the rotary angles.
            branch: int32 ``[B, T]`` (0 prefix, 1.. conversations, -1 padding); see `attention.branch_mask`.
            cache: keys and values ``[L, B, S, N_kv, K]`` that this call updates, or None.
            cache_branch: int32 ``[B, S]``, the branch of every slot of the cache, those written by this call included.
            slot: first slot of the cache that this call writes.
            dropout_keys: random keys ``[B]``, one a row, for LoRA's dropout; None, and nothing is dropped.

        Returns:
            ``(hidden [B, T, D] after the final norm, {"cache": ..., "layers": [L, B, T, D]})``. The outputs of the
            single layers are there for tests and probes; unused, they cost nothing under jit.
        """
        c = self.config
        mask = branch_mask(branch, branch if cache is None else cache_branch, slot)
        block = nn.remat(Block, prevent_cse=False) if c.remat == "full" else Block
        scanned = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, *[nn.broadcast] * 4),
            length=c.layers,
        )
        inputs = jnp.arange(c.layers), positions, mask, slot, dropout_keys
        (x, cache), layers = scanned(c, name="layers")((x, cache), *inputs)
        return RMSNorm(c.eps, name="norm")(x), {"cache": cache, "layers": layers}


def init(config: LlamaConfig, key: jax.Array) -> dict:
    """Random parameters: ``embed``, ``layers`` (stacked on axis 0), ``norm`` and the untied ``head``."""
    embed_key, decoder_key, head_key = jax.random.split(key, 3)
    x = jnp.zeros((1, 1, config.width))
    slots = jnp.zeros((1, 1), jnp.int32)
    decoder = Decoder(config).init(decoder_key, x, slots, slots)["params"]
    # Large beside what the blocks add at first, or a token's identity drowns in the average over its context.
    normal = nn.initializers.normal(0.5)
    return {
        "embed": {"embedding": normal(embed_key, (config.vocab_size, config.width))},
        **decoder,
        "head": {"kernel": LECUN(head_key, (config.width, config.vocab_size))},
    }


def embed(params: dict, ids: jax.Array) -> jax.Array:
    """Token embeddings: int32 ``[...] -> [..., D]``."""
    return params["embed"]["embedding"][ids]


def decode(config: LlamaConfig, params: dict, x: jax.Array, positions: jax.Array, branch: jax.Array, **options):
    """`Decoder` applied to parameters made by `init`; see there for arguments and result."""
    decoder = {"layers": params["layers"], "norm": params["norm"]}
    return Decoder(config).apply({"params": decoder}, x, positions, branch, **options)


def logits(config: LlamaConfig, params: dict, hidden: jax.Array) -> jax.Array:
    """Next-token logits ``[..., D] -> [..., V]``, accumulated and returned in float32 whatever the inputs' dtype.

    Where the head was padded (`resize_vocabulary`), what lies beyond ``vocab_size`` is no token and has probability 0.
    """
    kernel = params["head"]["kernel"].astype(hidden.dtype)
    flat = jnp.matmul(hidden.reshape(-1, hidden.shape[-1]), kernel, preferred_element_type=jnp.float32)
    flat = flat.reshape(*hidden.shape[:-1], kernel.shape[-1])
    if kernel.shape[-1] == config.vocab_size:
        return flat
    return jnp.where(jnp.arange(kernel.shape[-1]) < config.vocab_size, flat, jnp.finfo(jnp.float32).min / 2)


def resize_vocabulary(params: dict, size: int) -> dict:
    """The parameters with another number of rows in the embedding and columns in the head: zeros behind, or cut off.

    A vocabulary of 32,005 divides over no mesh; `logits` takes what lies behind it for no token.
    """
    embedding, kernel = params["embed"]["embedding"], params["head"]["kernel"]
    extra = max(size - len(embedding), 0)
    rows = np.pad(embedding[:size], ((0, extra), (0, 0)))
    columns = np.pad(kernel[:, :size], ((0, 0), (0, extra)))
    return {**params, "embed": {"embedding": rows}, "head": {"kernel": columns}}
