"""Torch tensors that hold several of our leaves: cut apart, put together, and what is said when they can't be."""

import numpy as np
import pytest

from grounding_jax.weights.rules import packed_layers
from grounding_jax.weights.table import Rule, Table, packed
from grounding_jax.weights.tensors import CheckpointError, from_array
from grounding_jax.weights.transforms import LINEAR

pytestmark = pytest.mark.quick

QKV = ["blocks/q", "blocks/k", "blocks/v"]
TABLE = Table((*packed_layers("blocks.{i}.qkv", QKV), Rule("norm", "norm"))).prefixed("m.", "m/")


def lazy(arrays: dict[str, np.ndarray]) -> dict:
    return {key: from_array(array) for key, array in arrays.items()}


def source() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"m.norm": (2,)} | {f"m.blocks.{i}.qkv.weight": (12, 2) for i in range(2)}
    shapes |= {f"m.blocks.{i}.qkv.bias": (12,) for i in range(2)}
    return {key: rng.normal(size=shape).astype(np.float16) for key, shape in shapes.items()}


def test_parts_come_apart_and_together():
    arrays = source()
    ours = TABLE.to_ours(lazy(arrays), "x.bin")
    assert ours["m/blocks/k/kernel"].shape == (2, 2, 4)
    np.testing.assert_array_equal(ours["m/blocks/k/kernel"].read()[1], arrays["m.blocks.1.qkv.weight"][4:8].T)
    np.testing.assert_array_equal(ours["m/blocks/v/bias"].read()[0], arrays["m.blocks.0.qkv.bias"][8:])
    backwards = {path: from_array(ours[path].read()) for path in reversed(ours)}
    back = TABLE.to_torch(backwards, "ckpt")
    assert back.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key].read(), array, err_msg=key, strict=True)


def test_misfits_are_named_once():
    arrays = source()
    del arrays["m.blocks.0.qkv.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(m\.blocks\.0\.qkv\.weight\)"):
        TABLE.to_ours(lazy(arrays), "x.bin")
    leaves = TABLE.to_ours(lazy(source()), "x.bin")
    del leaves["m/blocks/k/bias"]
    with pytest.raises(CheckpointError, match=r"2 missing \(m\.blocks\.\{0-1\}\.qkv\.bias\)"):
        TABLE.to_torch(leaves, "ckpt")


def test_a_tensor_that_can_t_be_cut_or_put_together():
    arrays = source() | {"m.blocks.0.qkv.weight": np.zeros((13, 2), np.float16)}
    with pytest.raises(CheckpointError, match=r"m\.blocks\.0\.qkv\.weight is \[13, 2\], which is no 3 times linear"):
        TABLE.to_ours(lazy(arrays), "x.bin")
    leaves = TABLE.to_ours(lazy(source()), "x.bin")
    leaves["m/blocks/q/bias"] = leaves["m/blocks/q/bias"].astype(np.float32)
    with pytest.raises(CheckpointError, match=r"the parts of m\.blocks\.0\.qkv\.bias differ: .*float16"):
        TABLE.to_torch(leaves, "ckpt")


def test_a_rule_for_the_whole_beside_rules_for_the_parts_is_an_error():
    table = Table((*packed("w", ["q", "k"], LINEAR), Rule("w", "both")))
    with pytest.raises(CheckpointError, match="doubled"):
        table.to_ours(lazy({"w": np.zeros((4, 2))}), "x.bin")
