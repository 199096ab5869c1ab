"""LLaMA against transformers', from random weights: values, gradients, cache, branches, and the published sizes."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
from transformers import LlamaConfig as TorchConfig
from transformers import LlamaForCausalLM

from grounding_jax.models import llama
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.weights import folder
from grounding_jax.weights.tables import llama as llama_weights
from tests.torch_reference import leaves, parameters, randomize

FEATURES = 2e-4  # absolute: float32 sums in another order
B, T = 2, 11

SIZES = {
    "multi-head": dict(vocab_size=43, hidden_size=24, intermediate_size=40, num_hidden_layers=3, rms_norm_eps=1e-6,
                       num_attention_heads=3, num_key_value_heads=3),
    "grouped-query": dict(vocab_size=29, hidden_size=32, intermediate_size=20, num_hidden_layers=2, rms_norm_eps=1e-3,
                          num_attention_heads=8, num_key_value_heads=2,
                          rope_parameters={"rope_type": "default", "rope_theta": 300.0}),
}  # fmt: skip


class Pair(NamedTuple):
    """The same weights twice."""

    theirs: LlamaForCausalLM
    config: LlamaConfig
    params: dict


@pytest.fixture(scope="module", params=SIZES)
def pair(request) -> Pair:
    theirs = randomize(LlamaForCausalLM(TorchConfig(**SIZES[request.param])), seed=1)
    ours = leaves(llama_weights.table(lora=False), theirs.state_dict())
    return Pair(theirs, llama_weights.config(ours, theirs.config.to_dict(), request.param), folder.to_params(ours))


@pytest.fixture(scope="module")
def read(pair):
    """The whole decoder, jitted for rows ``[B, T]``: final hidden states, those of all layers, logits."""

    @jax.jit
    def run(params, ids, positions, branch):
        hidden, aux = llama.decode(pair.config, params, llama.embed(params, ids), positions, branch)
        return hidden, aux["layers"], llama.logits(pair.config, params, hidden)

    return run


def random_ids(config: LlamaConfig, *shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, config.vocab_size, shape, dtype=np.int32)


def row_arrays(branches: list[list[int]], length: int = T) -> tuple[np.ndarray, np.ndarray]:
    """Positions and branches ``[B, length]``: every conversation goes on where the prefix ends."""
    positions, branch = np.zeros((len(branches), length), np.int32), np.full((len(branches), length), -1, np.int32)
    for b, row in enumerate(branches):
        for slot, one in enumerate(row):
            branch[b, slot] = one
            positions[b, slot] = sum(other in (0, one) for other in row[:slot])
    return positions, branch


def test_agrees_with_transformers(pair, read):
    ids = random_ids(pair.config, B, T)
    positions = np.arange(T, dtype=np.int32) + np.array([[0], [900]], np.int32)  # far out, wrong angles show
    with torch.no_grad():
        expected = pair.theirs(
            torch.from_numpy(ids).long(), position_ids=torch.from_numpy(positions), output_hidden_states=True
        )
    hidden, layers, logits = read(pair.params, ids, positions, np.zeros_like(ids))
    for layer, wanted in zip(layers[:-1], expected.hidden_states[1:-1], strict=True):
        np.testing.assert_allclose(layer, wanted, atol=FEATURES)
    np.testing.assert_allclose(hidden, expected.hidden_states[-1], atol=FEATURES)
    np.testing.assert_allclose(logits, expected.logits, atol=FEATURES)


def test_branches_equal_separate_rows(pair, read):
    """Two conversations of three and four tokens behind a prefix of four are what either is by itself."""
    mixed = [0, 0, 0, 0, 1, 1, 2, 2, 1, 2, 2]
    ids = random_ids(pair.config, 1, T).repeat(B, axis=0)
    positions, branch = row_arrays([mixed, mixed])
    together, layers, _ = read(pair.params, ids, positions, branch)
    slots = [[slot for slot in range(T) if mixed[slot] in (0, one)] for one in (1, 2)]
    alone = np.zeros_like(ids)
    for b, own in enumerate(slots):
        alone[b, : len(own)] = ids[b, own]
    separate, separate_layers, _ = read(pair.params, alone, *row_arrays([[0] * len(own) for own in slots]))
    for b, own in enumerate(slots):
        np.testing.assert_allclose(together[b, own], separate[b, : len(own)], atol=FEATURES)
        np.testing.assert_allclose(layers[:, b, own], separate_layers[:, b, : len(own)], atol=FEATURES)


def test_cache_equals_whole_rows(pair, read):
    """Four slots, four more, then token by token: rows of unequal length and rows with conversations."""
    prompts = [[0] * 8, [0] * 5, [0] * 4 + [1, 1], [0] * 4 + [1, 1, 2, 2]]
    chunk, prefilled, new = 4, 8, T - 8
    whole = [prompt + prompt[-1:] * new for prompt in prompts]
    ids = random_ids(pair.config, len(whole), T)
    positions, branch = row_arrays(whole)
    expected = np.concatenate(
        [read(pair.params, ids[b : b + B], positions[b : b + B], branch[b : b + B])[0] for b in (0, 2)]
    )

    @jax.jit
    def step(params, ids, positions, branch, cache, cache_branch, slot):
        x = llama.embed(params, ids)
        hidden, aux = llama.decode(
            pair.config, params, x, positions, branch, cache=cache, cache_branch=cache_branch, slot=slot
        )
        return hidden, aux["cache"]

    _, cache_branch = row_arrays(prompts)
    cache = llama.empty_cache(pair.config, len(whole), T)
    for slot in range(0, prefilled, chunk):
        at = slice(slot, slot + chunk)
        arguments = ids[:, at], positions[:, at], cache_branch[:, at], cache, cache_branch, slot
        hidden, cache = step(pair.params, *arguments)
        for b, prompt in enumerate(prompts):
            real = slice(slot, min(slot + chunk, len(prompt)))
            np.testing.assert_allclose(hidden[b, : real.stop - slot], expected[b, real], atol=FEATURES)
    rows, lengths = np.arange(len(prompts)), np.array([len(prompt) for prompt in prompts])
    for n in range(new):
        at = rows[:, None], (lengths + n)[:, None]  # the row's next token; it is written to slot 8 + n in every row
        cache_branch[:, prefilled + n] = branch[at][:, 0]
        arguments = ids[at], positions[at], branch[at], cache, cache_branch, prefilled + n
        hidden, cache = step(pair.params, *arguments)
        np.testing.assert_allclose(hidden, expected[at], atol=FEATURES)


def test_gradients_agree_with_transformers_with_and_without_remat(pair):
    """Of a random linear function of the logits, at every parameter, mapped by the table of the weights."""
    ids = random_ids(pair.config, B, T)
    positions, branch = row_arrays([[0] * T] * B)
    weights = np.random.default_rng(5).normal(size=(B, T, pair.config.vocab_size)).astype(np.float32) / ids.size

    def loss(config, params):
        hidden, _ = llama.decode(config, params, llama.embed(params, ids), positions, branch)
        return (llama.logits(config, params, hidden) * weights).sum()

    @jax.jit
    def gradients(params):
        configs = (dataclasses.replace(pair.config, remat=remat) for remat in ("none", "full"))
        return [jax.value_and_grad(loss, argnums=1)(config, params) for config in configs]

    wanted = (pair.theirs(torch.from_numpy(ids).long()).logits * torch.from_numpy(weights)).sum()
    pair.theirs.zero_grad()
    wanted.backward()
    state = {name: parameter.grad for name, parameter in pair.theirs.named_parameters()}
    expected = parameters(llama_weights.table(lora=False), state)
    for value, gradient in gradients(pair.params):
        np.testing.assert_allclose(value, wanted.detach(), atol=FEATURES)
        jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=FEATURES), gradient, expected)


def test_full_remat_keeps_little_for_the_backward_pass():
    config = LlamaConfig(vocab_size=8, width=4, hidden=400, layers=5, heads=1, kv_heads=1)
    row = np.zeros((1, 50), np.int32)

    def kept(remat: str) -> int:
        """Numbers that the backward pass finds stored, the parameters included."""
        changed = dataclasses.replace(config, remat=remat)

        def pullback(params):
            return jax.vjp(lambda p: llama.decode(changed, p, llama.embed(p, row), row, row)[0], params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pullback, params)))

    params = jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    wide = config.layers * row.size * config.hidden
    assert kept("none") > parameters + 2 * wide
    assert kept("full") < parameters + wide / 10
    with pytest.raises(ValueError, match="remat is 'half', should be none or full"):
        dataclasses.replace(config, remat="half")


@pytest.mark.parametrize(
    ("name", "elements"),
    [("vicuna_7b", 6_738_415_616), ("vicuna_13b", 13_015_864_320), ("llama2_13b", 13_015_864_320)],
)
def test_published_size(name, elements):
    """With the 32,000 tokens of the original vocabulary."""
    config = getattr(LlamaConfig, name)(vocab_size=32000, remat="full")
    params = jax.eval_shape(lambda: llama.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == elements
    row = jax.ShapeDtypeStruct((2, 64), np.int32)

    def run(params, ids, positions, branch):
        x = llama.embed(params, ids)
        cache = llama.empty_cache(config, 2, 64)
        hidden, aux = llama.decode(config, params, x, positions, branch, cache=cache, cache_branch=branch)
        return llama.logits(config, params, hidden), aux["cache"]

    logits, cache = jax.eval_shape(run, params, row, row, row)
    assert logits.shape == (2, 64, 32000)
    assert cache["k"].shape == cache["v"].shape == (config.layers, 2, 64, config.heads, 128)
