"""One call loads a published part: sizes and parameters, checked against each other."""

import ast
import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from grounding_jax import weights
from grounding_jax.models import clip, llama, mask2former, mobilenet, sam, swin
from grounding_jax.weights.folder import from_params
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import CheckpointError
from grounding_jax.weights.writers import write_safetensors

DECODER = "sem_seg_head.predictor.transformer_ffn_layers.0"
# A part's loader and model, a golden file of it, and where a tensor of it is in our tree, transposed.
PARTS = {
    "sam": (weights.sam, sam, "gsva/tiny_sam_vit_b.pth", "image_encoder.blocks.0.mlp.lin1.weight"),
    "clip": (weights.clip, clip, "gsva/tiny-clip", "vision_model.encoder.layers.0.mlp.fc1.weight"),
    "llama": (weights.llama, llama, "gella/llama", "model.layers.0.mlp.up_proj.weight"),
    "swin": (weights.swin, swin, "gella/swin_backbone", "encoder.layers.0.blocks.0.intermediate.dense.weight"),
    "mobilenet": (weights.mobilenet, mobilenet, "gella/mobilenet_v2", "conv_stem.reduce_1x1.convolution.weight"),
    "mask2former": (weights.mask2former, mask2former, "gella/m2f_d2_entity", f"{DECODER}.linear1.weight"),
}
OURS = {
    "sam": lambda params: params["image_encoder"]["blocks_0"]["mlp"]["fc1"]["kernel"],
    "clip": lambda params: params["layers"]["mlp"]["fc1"]["kernel"][0],
    "llama": lambda params: params["layers"]["mlp"]["up"]["kernel"][0],
    "swin": lambda params: params["stages_0"]["blocks"]["mlp"]["fc1"]["kernel"][0],
    "mobilenet": lambda params: params["blocks_0"]["project"]["kernel"],
    "mask2former": lambda params: params["transformer_decoder"]["layers_0"]["mlp"]["fc1"]["kernel"],
}


@pytest.mark.parametrize("name", PARTS)
def test_one_call_loads_a_part(golden, name):
    loader, model, file, key = PARTS[name]
    config, params = loader.load(golden / file)
    stored = open_weights(golden / file)[key].read()
    np.testing.assert_array_equal(OURS[name](params), stored.reshape(stored.shape[:2]).T, strict=True)
    shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    _, half = loader.load(golden / file, np.float16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float16)}


@pytest.mark.parametrize("name", PARTS)
def test_another_part_is_named(golden, name):
    other = PARTS["llama" if name == "sam" else "sam"][2]
    with pytest.raises(CheckpointError, match=f"{golden / other}: has the (SAM|LLaMA) layout, expected"):
        PARTS[name][0].load(golden / other)


def test_sizes_come_from_shapes_config_and_keywords(golden, tmp_path):
    config, _ = weights.llama.load(golden / "gella/llama")
    with pytest.raises(CheckpointError, match="num_attention_heads is missing"):
        weights.llama.load(golden / "gella/llama/model.safetensors")
    sizes = {name: getattr(config, name) for name in ("heads", "eps", "rope_theta", "max_positions")}
    assert weights.llama.load(golden / "gella/llama/model.safetensors", **sizes)[0] == config
    assert weights.sam.load(golden / "gsva/tiny_sam_vit_b.pth", decoder_heads=4)[0].decoder_heads == 4
    write_safetensors(tmp_path, open_weights(golden / "gsva/tiny_sam_vit_b.pth"))  # a folder of shards with an index
    assert weights.sam.load(tmp_path)[0] == weights.sam.load(golden / "gsva/tiny_sam_vit_b.pth")[0]


def test_a_swin_of_every_kind(golden, tmp_path):
    """With the norms of detection, inside a Mask2Former of both layouts, and alone with one norm."""
    for file in ("swin_backbone", "m2f_hf", "m2f_d2_entity"):
        config, params = weights.swin.load(golden / "gella" / file)
        assert params["norm3"]["scale"].shape == (config.widths[-1],) and "norm" not in params
    config, params = weights.swin.load(golden / "gella/swin_backbone")
    trunk = {name: part for name, part in params.items() if name not in ("norm0", "norm1", "norm2", "norm3")}
    leaves = from_params({**trunk, "norm": params["norm3"]})
    for names in (weights.swin.original(detection=False), weights.swin.transformers("swin.", detection=False)):
        write_safetensors(tmp_path, names.to_torch(leaves, "the trunk"))
        found, alone = weights.swin.load(tmp_path)
        assert found == config
        jax.tree.map(np.testing.assert_array_equal, alone, {**trunk, "norm": params["norm3"]})


def test_a_mobilenet_of_both_forms(golden):
    config, params = weights.mobilenet.load(golden / "gella/mobilenet_v2")
    alone, whole = weights.mobilenet.load(golden / "gella/mobilenet_v2", detection=False)
    assert "head" not in params and whole["head"]["kernel"].shape[-1] == alone.head
    assert dataclasses.replace(config, head=alone.head) == alone


def test_a_leaf_of_another_shape_is_named(golden, tmp_path):
    tensors = load_file(golden / "gsva/tiny-clip/model.safetensors")
    names = [key for key in tensors if key.endswith("mlp.fc1.bias")]
    save_file({**tensors, **{key: tensors[key][:-1] for key in names}}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"of another shape than the config: .*mlp\.fc1\.bias"):
        weights.clip.load(tmp_path)


def test_model_files_need_nothing_but_arrays():
    """No files, datasets, tokenizers, meshes: a model imports models and array libraries."""
    allowed = {
        "__future__",
        "collections",
        "dataclasses",
        "functools",
        "math",
        "typing",
        "einops",
        "flax",
        "jax",
        "numpy",
    }
    files = sorted(Path(sam.__file__).parent.parent.rglob("*.py"))
    assert len(files) > 20
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.startswith("grounding_jax.models") or name.partition(".")[0] in allowed, f"{file}: {name}"
