"""Attention against PyTorch's, and who sees whom in a row of conversations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from grounding_jax.models.attention import attention, branch_mask

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("cached_logits", [2**17, 0], ids=["at once", "row by row"])
@pytest.mark.parametrize("kv_heads", [6, 2])
def test_agrees_with_pytorch(kv_heads, cached_logits, monkeypatch):
    monkeypatch.setattr("grounding_jax.models.attention.CACHED_LOGITS", cached_logits)
    B, T, S, N, K = 2, 5, 7, 6, 4
    rng = np.random.default_rng(kv_heads)
    q = rng.normal(size=(B, T, N, K)).astype(np.float32)
    k, v = rng.normal(size=(2, B, S, kv_heads, K)).astype(np.float32)
    bias = rng.normal(size=(B, N, T, S)).astype(np.float32)
    mask = rng.random((B, 1, T, S)) < 0.6
    mask[..., 0] = True  # a query that sees nothing has no defined answer

    def reference(added):
        heads_first = (torch.from_numpy(x).transpose(1, 2) for x in (q, k, v))
        added = torch.from_numpy(added.astype(np.float32))
        y = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=added, enable_gqa=True)
        return y.transpose(1, 2).numpy()

    plain, biased, masked, both = jax.jit(
        lambda q, k, v, bias, mask: (
            attention(q, k, v),
            attention(q, k, v, bias=bias),
            attention(q, k, v, mask=mask),
            attention(q, k, v, bias=bias, mask=mask),
        )
    )(q, k, v, bias, mask)
    hidden = np.where(mask, 0.0, -np.inf)
    np.testing.assert_allclose(plain, reference(np.zeros_like(bias)), atol=1e-6)
    np.testing.assert_allclose(biased, reference(bias), atol=1e-6)
    np.testing.assert_allclose(masked, reference(hidden), atol=1e-6)
    np.testing.assert_allclose(both, reference(bias + hidden), atol=1e-6)


def test_row_by_row_has_the_gradients_of_all_at_once(monkeypatch):
    """What a CPU computes, against what other devices do."""
    B, T, N, K = 3, 6, 4, 8
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v = (jax.random.normal(key, (B, T, heads, K)) for key, heads in zip(keys, (N, 2, 2), strict=False))
    bias = jax.random.normal(keys[3], (B, N, T, T))
    mask = jnp.tril(jnp.ones((1, 1, T, T), bool))

    def gradients():
        def loss(q, k, v, bias):
            return jnp.square(attention(q, k, v, mask=mask, bias=bias)).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(q, k, v, bias)

    at_once = gradients()
    monkeypatch.setattr("grounding_jax.models.attention.CACHED_LOGITS", 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients(), at_once)


def test_logits_and_softmax_are_float32_whatever_the_inputs():
    """Logits 100 and 100.25 are one number in bfloat16."""
    q = jnp.array([16, 0.5, 0, 0], jnp.bfloat16).reshape(1, 1, 1, 4)
    k = jnp.array([[12.5, 0, 0, 0], [12.5, 1, 0, 0]], jnp.bfloat16).reshape(1, 2, 1, 4)
    v = jnp.array([[0, 0, 0, 0], [1, 1, 1, 1]], jnp.bfloat16).reshape(1, 2, 1, 4)
    y = attention(q, k, v)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), 1 / (1 + np.exp(-0.25)), rtol=2**-8)


def test_branches_see_the_prefix_and_themselves():
    branch = np.array([[0, 0, 1, 1, 2, 2, -1], [0, 0, 0, 0, 0, 0, 0]], np.int32)
    expected = np.array(
        [
            [1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 1, 1, 0, 0, 0],
            [1, 1, 0, 0, 1, 0, 0],
            [1, 1, 0, 0, 1, 1, 0],
            [1, 1, 0, 0, 0, 0, 1],
        ]
    )
    mask = branch_mask(branch, branch)
    np.testing.assert_array_equal(mask[0, 0], expected)
    np.testing.assert_array_equal(mask[1, 0], np.tri(7))


def test_queries_may_start_in_the_middle_of_the_keys():
    branch = np.array([[0, 0, -1, 1, 2, 1, 0, 2]], np.int32)
    whole = branch_mask(branch, branch)
    np.testing.assert_array_equal(branch_mask(branch[:, 3:6], branch, 3), whole[:, :, 3:6])
    np.testing.assert_array_equal(branch_mask(branch[:, 7:], branch, jnp.int32(7)), whole[:, :, 7:])
