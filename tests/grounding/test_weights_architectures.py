"""The tables of LLaMA, CLIP and SAM: published names at full size, and sizes told from shapes."""

import collections
import dataclasses
import json
import re
from functools import partial

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.clip import init as init_clip
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.llama import init as init_llama
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.sam import init as init_sam
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import clip, llama, sam
from grounding_jax.weights.tensors import CheckpointError, LazyTensor
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.weights import lisa_table, official_table

FLOAT32 = np.dtype(np.float32)


def phantom(shape: tuple[int, ...]) -> LazyTensor:
    """A tensor of any size that takes no memory."""
    return LazyTensor(shape, FLOAT32, partial(np.broadcast_to, np.zeros((), np.float32), shape))


def phantom_leaves(init, config) -> dict[str, LazyTensor]:
    shapes = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return {path: phantom(leaf.shape) for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}


def collapsed(tensors: dict[str, LazyTensor]) -> dict[str, tuple[int, set]]:
    """Names with layer numbers as {i}, how many there are of each, their shapes: as in the golden file."""
    groups = collections.defaultdict(list)
    for key, tensor in tensors.items():
        groups[re.sub(r"(layers|blocks)\.\d+\.", r"\1.{i}.", key)].append(tensor.shape)
    return {key: (len(shapes), set(shapes)) for key, shapes in groups.items()}


def stored(entries: dict) -> dict[str, tuple[int, set]]:
    out = {}
    for key, entry in entries.items():
        if isinstance(entry, list):
            entry = {"n": 1, "shape": entry}
        out[key] = entry["n"], {tuple(shape) for shape in entry.get("shapes", [entry.get("shape")])}
    return out


def assert_produced_and_consumed(table, leaves, entries):
    tensors = table.to_torch(leaves, "model")
    assert collapsed(tensors) == stored(entries)
    back = table.to_ours(tensors, "checkpoint")
    assert {path: leaf.shape for path, leaf in back.items()} == {path: leaf.shape for path, leaf in leaves.items()}
    return tensors


@pytest.fixture(scope="module")
def full_size(golden) -> dict:
    return json.loads((golden / "gsva" / "keys_full_size.json").read_text())


@pytest.fixture(scope="module")
def gsva_7b() -> dict[str, LazyTensor]:
    return phantom_leaves(model.init, GsvaConfig.gsva_7b())


def test_every_name_of_gsva_7b(full_size, gsva_7b):
    tensors = assert_produced_and_consumed(official_table(lora=True), gsva_7b, full_size["gsva_7b_bin"])
    assert len(tensors) == full_size["gsva_7b_bin_n_keys"] == 1410
    assert sum(np.prod(t.shape) for t in tensors.values()) == full_size["gsva_7b_params"] == 7_708_950_064
    for part, count in full_size["gsva_7b_group_params"].items():
        assert sum(np.prod(t.shape) for key, t in tensors.items() if part in key) == count, part


def test_every_name_of_lisa_7b(full_size, gsva_7b):
    merged = {path: leaf for path, leaf in gsva_7b.items() if "lora_" not in path and not path.startswith("clip/")}
    assert_produced_and_consumed(lisa_table(), merged, full_size["merged_hf_like(LISA style, no vision_tower)"])


@pytest.mark.parametrize("size", ["b", "l", "h"])
def test_every_name_of_sam_and_its_sizes(full_size, size):
    config = getattr(SamConfig, f"vit_{size}")()
    leaves = phantom_leaves(init_sam, config)
    tensors = assert_produced_and_consumed(sam.table(), leaves, full_size[f"sam_vit_{size}"])
    assert len(tensors) == full_size[f"sam_vit_{size}_n_keys"]
    assert sam.config(leaves) == config


def test_sizes_of_clip():
    config = ClipConfig.vit_l14(336)
    leaves = phantom_leaves(init_clip, config)
    assert clip.config(leaves, {}, "no config.json") == config
    public = {"hidden_size": 1024, "num_attention_heads": 8, "hidden_act": "gelu", "layer_norm_eps": 1e-6}
    for file in (public, {"vision_config": public, "hidden_size": 512}):
        found = clip.config(leaves, file, "config.json", eps=1e-4)
        assert found == dataclasses.replace(config, heads=8, activation="gelu", eps=1e-4)
    with pytest.raises(CheckpointError, match=r"config\.json: belongs to another .* hidden_size 768 \(weights: 1024\)"):
        clip.config(leaves, {"hidden_size": 768}, "config.json")


def test_sizes_of_llama():
    config = LlamaConfig.vicuna_7b(layers=2, kv_heads=8, lora_rank=8, eps=1e-5, max_positions=4096)
    leaves = phantom_leaves(init_llama, config)
    public = {
        "num_attention_heads": 32,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "rope_scaling": None,
    }
    assert llama.config(leaves, public, "config.json") == config
    assert llama.config(leaves, public, "config.json", rope_theta=5e5).rope_theta == 5e5
    newer = public | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    assert llama.config(leaves, newer, "config.json").rope_theta == 5e5
    with pytest.raises(CheckpointError, match="num_attention_heads is missing"):
        llama.config(leaves, {}, "config.json")
    with pytest.raises(CheckpointError, match="num_hidden_layers 40"):
        llama.config(leaves, public | {"num_hidden_layers": 40}, "config.json")
    with pytest.raises(CheckpointError, match="positions of type linear"):
        llama.config(leaves, public | {"rope_scaling": {"type": "linear", "factor": 2.0}}, "config.json")
    with pytest.raises(CheckpointError, match="30 heads don't divide"):
        llama.config(leaves, public, "config.json", heads=30)


def assert_bit_equal(table, path, state: dict[str, torch.Tensor]):
    back = table.to_torch(table.to_ours(open_weights(path), str(path)), str(path))
    assert back.keys() == state.keys()
    for key, tensor in state.items():
        np.testing.assert_array_equal(back[key].read(), tensor.numpy(), err_msg=key, strict=True)


def test_sam_file_round_trip(golden):
    path = golden / "gsva" / "tiny_sam_vit_b.pth"
    assert_bit_equal(sam.table(), path, torch.load(path, weights_only=True))
    found = sam.config(sam.table().to_ours(open_weights(path), str(path)), decoder_heads=4)
    assert found == SamConfig(
        width=32, layers=4, heads=4, global_blocks=(1, 3), image_size=128, window=3, prompt_width=32,
        decoder_heads=4, decoder_hidden=64, iou_hidden=32,
    )  # fmt: skip


def test_clip_folder_round_trip(golden):
    path = golden / "gsva" / "tiny-clip"
    state = transformers.CLIPVisionModel.from_pretrained(path).state_dict()
    names = {key if key.startswith("vision_model.") else f"vision_model.{key}": key for key in state}
    assert_bit_equal(clip.table(), path, {name: state[key] for name, key in names.items()})


def test_text_side_of_a_full_clip_is_ignored(golden, tmp_path):
    vision = dict(open_weights(golden / "gsva" / "tiny-clip"))
    state = {key: torch.from_numpy(np.array(tensor.read())) for key, tensor in vision.items()}
    extra = (
        "text_model.embeddings.token_embedding.weight",
        "text_projection.weight",
        "visual_projection.weight",
    )
    extra += ("logit_scale", "vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")
    torch.save(state | {key: torch.zeros(2) for key in extra}, tmp_path / "pytorch_model.bin")
    leaves = clip.table().to_ours(open_weights(tmp_path), "full CLIP")
    assert leaves.keys() == clip.table().to_ours(vision, "vision tower").keys()
