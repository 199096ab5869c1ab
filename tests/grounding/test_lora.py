"""Low-rank updates: what a layer computes, and that merging them into the kernels changes no answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import traverse_util

from grounding_jax.models import llama, lora
from grounding_jax.models.layers import Linear
from grounding_jax.models.llama import LlamaConfig

pytestmark = pytest.mark.quick

CONFIG = LlamaConfig(
    vocab_size=31, width=24, hidden=40, layers=3, heads=4, kv_heads=2, lora_rank=3, lora_alpha=7.5, rope_theta=100.0
)


def randomize(params: dict, seed: int) -> dict:
    """All leaves from N(0, 0.3): `init` makes `lora_b` zero, which hides every mistake."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32), params)


def test_layer_is_the_kernel_and_the_scaled_update():
    rng = np.random.default_rng(0)
    layer = Linear(6, lora_rank=2, lora_scale=2.5)
    x = rng.normal(size=(3, 4, 5)).astype(np.float32)
    params = randomize(layer.init(jax.random.key(0), x)["params"], 1)
    x_, kernel, lora_a, lora_b, bias = map(
        torch.from_numpy, (x, params["kernel"], params["lora_a"], params["lora_b"], params["bias"])
    )
    expected = torch.nn.functional.linear(x_, kernel.T, bias) + 2.5 * (x_ @ lora_a) @ lora_b
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


def test_fresh_updates_change_nothing():
    """PEFT's start: A uniform in +-1/sqrt(D), B zero."""
    layer = Linear(6, lora_rank=4)
    x = jnp.ones((1, 400))
    params = layer.init(jax.random.key(0), x)["params"]
    np.testing.assert_array_equal(params["lora_b"], 0)
    assert 0.045 < np.abs(params["lora_a"]).max() <= 0.05
    np.testing.assert_allclose(np.std(params["lora_a"]), 0.05 / np.sqrt(3), rtol=0.05)
    plain = Linear(6).apply({"params": {"kernel": params["kernel"], "bias": params["bias"]}}, x)
    np.testing.assert_array_equal(layer.apply({"params": params}, x), plain)


def test_merged_decoder_gives_the_same_answer():
    params = randomize(jax.eval_shape(lambda: llama.init(CONFIG, jax.random.key(0))), 2)
    plain = dataclasses.replace(CONFIG, lora_rank=0)
    merged, without = lora.merge_tree(params, CONFIG.lora_scale), lora.merge_tree(params, 0.0)
    shapes = jax.eval_shape(lambda: llama.init(plain, jax.random.key(0)))
    assert jax.tree.map(jnp.shape, merged) == jax.tree.map(jnp.shape, shapes)
    ids = np.random.default_rng(3).integers(0, CONFIG.vocab_size, (2, 9))
    positions, branch = np.broadcast_to(np.arange(9), ids.shape), np.zeros_like(ids)

    @functools.partial(jax.jit, static_argnums=0)
    def hidden(config, params):
        return llama.decode(config, params, llama.embed(params, ids), positions, branch)[0]

    adapted = hidden(CONFIG, params)
    np.testing.assert_allclose(adapted, hidden(plain, merged), atol=2e-4)
    assert np.abs(adapted - hidden(plain, without)).max() > 0.1


def test_only_q_and_v_are_adapted():
    paths = traverse_util.flatten_dict(jax.eval_shape(lambda: llama.init(CONFIG, jax.random.key(0))), sep="/")
    assert sorted(path for path in paths if "lora" in path) == [
        f"layers/attn/{name}/lora_{part}" for name in "qv" for part in "ab"
    ]


def test_merging_adds_in_float32_and_keeps_the_dtype():
    kernel = np.full((2, 3, 4), 256, ml_dtypes.bfloat16)
    lora_a = np.full((2, 3, 2), 1.0, ml_dtypes.bfloat16)
    lora_b = np.full((2, 2, 4), 0.375, ml_dtypes.bfloat16)
    merged = lora.merge(kernel, lora_a, lora_b, 2.0)  # the update, 1.5, is below what bfloat16 resolves at 256
    assert merged.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(merged.astype(np.float32), 258.0)
