"""Checkpoints of which it can't be told what they hold: each is one line that says what to do, and none is guessed.

Those that can be read are programs, see `test_cases`.
"""

from collections import OrderedDict

import pytest
import torch

from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import CheckpointError
from gsva_jax import weights


def deepspeed(module: dict[str, torch.Tensor]) -> dict:
    """The model states that DeepSpeed saves."""
    return {"module": OrderedDict(module), "mp_world_size": 1, "ds_version": "0.14.0", "global_steps": 500}


def test_shards_of_deepspeed(tmp_path):
    """In stage 3 the names are there and the weights are not."""
    whole = {"a": torch.ones(2), "b": torch.ones(3)}
    shards = ({"a": torch.ones(2), "b": torch.zeros(0)}, {})
    for content in (*map(deepspeed, shards), {**deepspeed(whole), "mp_world_size": 2}, {"ds_version": "0.14.0"}):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=r"x\.pt: one of DeepSpeed's shards; .*zero_to_fp32\.py"):
            open_weights(tmp_path / "x.pt")
    torch.save(deepspeed(whole), tmp_path / "x.pt")
    found = open_weights(tmp_path / "x.pt")
    assert found["b"].read().tolist() == [1, 1, 1]
    assert found.report == (f"read: module of {tmp_path}/x.pt; left out: mp_world_size, ds_version, global_steps",)


@pytest.mark.parametrize(
    "file, program",
    [
        ("zero_pp_rank_0_mp_rank_00_model_states.pt", "zero_to_fp32.py"),
        ("__0_0.distcp", "dcp_to_torch"),
        ("adapter_model.safetensors", "merge_and_unload"),
    ],
)
def test_folders_of_parts(tmp_path, file, program):
    (tmp_path / file).touch()
    with pytest.raises(CheckpointError, match=program):
        open_weights(tmp_path)


def test_several_state_dicts(tmp_path):
    two = {"generator": {"a": torch.ones(2)}, "critic": {"a": torch.zeros(2)}}
    torch.save(two, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="2 entries are not tensors: generator, critic"):
        open_weights(tmp_path / "x.bin")
    torch.save({"net": two["generator"], "optimizer": {"state": {}}}, tmp_path / "x.bin")
    assert open_weights(tmp_path / "x.bin")["a"].read().tolist() == [1, 1]


def test_a_name_with_and_without_a_wrapper(tmp_path):
    names = ("image_encoder.a", "_orig_mod.image_encoder.a", "mask_decoder.b")
    torch.save({name: torch.ones(1) for name in names}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"x\.bin: has names twice"):
        open_layout(tmp_path / "x.bin", ("SAM",))


def test_a_tensor_in_two_shards(tmp_path):
    for number in (1, 2):
        torch.save({"a": torch.full((2,), number), f"b{number}": torch.ones(1)}, tmp_path / f"{number}.bin")
    index = '{"weight_map": {"a": "1.bin", "b1": "1.bin", "b2": "2.bin"}}'
    (tmp_path / "pytorch_model.bin.index.json").write_text(index)
    with pytest.raises(CheckpointError, match=r"2\.bin: has tensors that another shard has, too: a"):
        open_weights(tmp_path)


@pytest.mark.parametrize("name", ["../1.bin", "/etc/1.bin", "gs://x/1.bin", "sub/1.bin", "", ".", "1.index.json"])
def test_an_index_that_leaves_its_folder(tmp_path, name):
    (tmp_path / "model").mkdir()
    torch.save({"a": torch.ones(2)}, tmp_path / "1.bin")
    (tmp_path / "model" / "pytorch_model.bin.index.json").write_text(f'{{"weight_map": {{"a": "{name}"}}}}')
    with pytest.raises(CheckpointError, match=f"{name!r} is not the name of a shard beside the index"):
        open_weights(tmp_path / "model")


def test_rows_that_may_be_no_padding(gsva_golden, tmp_path):
    tensors = torch.load(gsva_golden / "gsva-tiny-a.bin")
    for name, tensor in tensors.items():
        if name.endswith(("embed_tokens.weight", "lm_head.weight")):
            tensors[name] = torch.cat([tensor, tensor[:24]])
    torch.save(tensors, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match="has 448 token rows, .* makes 424 .* they should be zeros"):
        weights.open_official(tmp_path / "x.bin", gsva_golden / "tiny-llava", sizes=gsva_golden / "config.json")
