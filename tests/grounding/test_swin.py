"""Swin against the golden numbers and transformers', published sizes, and every layout there and back."""

import collections
import dataclasses
import re

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util
from safetensors.numpy import load_file
from transformers import SwinBackbone, SwinForImageClassification, SwinModel

from grounding_jax.models import swin
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.table import Table
from grounding_jax.weights.tables import swin as swin_weights
from grounding_jax.weights.tensors import LazyTensor, from_array
from tests.torch_reference import randomize

FEATURES = dict(atol=1e-4, rtol=1e-4)
STAGES = ["stage1", "stage2", "stage3", "stage4"]
MASK2FORMER = "model.pixel_level_module.encoder."

# transformers' names for the layers of the release, in the order they are replaced.
RELEASE_NAMES = (
    (r"^classifier\.", "head."),
    (r"^swin\.layernorm\.", "norm."),
    (r"^swin\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^swin\.embeddings\.", "patch_embed."),
    (r"^swin\.encoder\.", ""),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)

QUICK = {"xla_backend_optimization_level": 0}  # these models take longer to compile than to run

pyramid = jax.jit(swin.pyramid, static_argnums=0, compiler_options=QUICK)
encode = jax.jit(swin.encode, static_argnums=0, compiler_options=QUICK)


def under(prefix: str, tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    return {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def published(model: transformers.PreTrainedModel, path) -> dict[str, LazyTensor]:
    """The tensors under the names that transformers writes, which are not those in memory."""
    model.save_pretrained(path)
    return open_weights(path)


def config_and_params(leaves: dict[str, LazyTensor]) -> tuple[SwinConfig, dict]:
    return swin_weights.config(leaves), folder.to_params(leaves, np.dtype(np.float32))


def channels_first(x: jax.Array) -> np.ndarray:
    return np.asarray(x).transpose(0, 3, 1, 2)


def pictures(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(*shape, 3)).astype(np.float32)


def for_torch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.transpose(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("name", "cases", "prefix", "table"),
    [
        ("swin_backbone", {"case0": "", "case1": "", "case2": ""}, "", swin_weights.transformers()),
        ("m2f_hf", {"case0": "backbone."}, MASK2FORMER, swin_weights.transformers(MASK2FORMER)),
        ("m2f_d2_entity", {"case0": "backbone."}, "backbone.", swin_weights.original("backbone.")),
    ],
    ids=["odd sizes", "transformers", "detectron2"],
)
def test_pyramid_agrees_with_golden(golden, name, cases, prefix, table):
    path = golden / "gella" / name
    leaves = table.to_ours(under(prefix, open_weights(path)), str(path))
    config, params = config_and_params(leaves)
    inputs, outputs = load_file(path / "inputs.safetensors"), load_file(path / "outputs.safetensors")
    for case, part in cases.items():
        images = inputs[f"{case}.pixel_values"].astype(np.float32).transpose(0, 2, 3, 1)
        for i, found in enumerate(pyramid(config, params, images)):
            expected = outputs[f"{case}.{part}res{i + 2}"]
            np.testing.assert_allclose(channels_first(found), expected, **FEATURES, err_msg=f"{case} {i}")


def test_stand_alone_agrees_with_golden(golden):
    """Also for a map as small as a window, which is not shifted."""
    path = golden / "gella" / "swin_model"
    table = swin_weights.transformers(detection=False, stages=2)
    config, params = config_and_params(table.to_ours(open_weights(path), str(path)))
    inputs, outputs = load_file(path / "inputs.safetensors"), load_file(path / "outputs.safetensors")
    for case in ("", "small."):
        images = inputs[f"{case}pixel_values"].astype(np.float32).transpose(0, 2, 3, 1)
        last, pooled = encode(config, params, images)
        expected = outputs[f"{case}last_hidden_state"]
        np.testing.assert_allclose(np.reshape(last, expected.shape), expected, **FEATURES)
        np.testing.assert_allclose(pooled, expected.mean(1), **FEATURES)
        if not case:
            np.testing.assert_allclose(pooled, outputs["pooler_output"], **FEATURES)


def test_pyramid_agrees_with_transformers(tmp_path):
    sizes = dict(embed_dim=12, depths=[1, 3, 1, 2], num_heads=[1, 2, 4, 3], window_size=5, patch_size=2, mlp_ratio=3)
    theirs = randomize(SwinBackbone(transformers.SwinConfig(**sizes, out_features=STAGES)), seed=1)
    table = swin_weights.transformers()
    config, params = config_and_params(table.to_ours(published(theirs, tmp_path), "random weights"))
    expected = SwinConfig(width=12, depths=(1, 3, 1, 2), heads=(1, 2, 4, 3), window=5, patch_size=2, mlp_ratio=3)
    assert config == expected
    images = pictures(2, 2, 27, 46)
    with torch.no_grad():
        maps = theirs(for_torch(images)).feature_maps
    for found, wanted in zip(pyramid(config, params, images), maps, strict=True):
        np.testing.assert_allclose(channels_first(found), wanted, **FEATURES)


def original_names(tensors: dict[str, LazyTensor]) -> dict[str, np.ndarray]:
    """Tensors of a classifier of transformers under the names of Microsoft's release."""
    state = {}
    for key, tensor in tensors.items():
        for pattern, name in RELEASE_NAMES:
            key = re.sub(pattern, name, key)
        state[key] = tensor.read()
    for key in [key for key in state if ".query." in key]:
        parts = [state.pop(key.replace("query", name)) for name in ("query", "key", "value")]
        state[key.replace("query", "qkv")] = np.concatenate(parts)
    return state


def classifier(seed: int) -> SwinForImageClassification:
    sizes = dict(embed_dim=6, depths=[2, 3], num_heads=[1, 2], window_size=4, image_size=52, num_labels=3)
    return randomize(SwinForImageClassification(transformers.SwinConfig(**sizes)), seed)


def test_stand_alone_release_agrees_with_transformers(tmp_path):
    theirs = classifier(seed=3)
    buffers = {"layers.0.blocks.0.attn.relative_position_index": np.zeros((16, 16), np.int64)}
    buffers["layers.0.blocks.1.attn_mask"] = np.zeros((16, 16, 16), np.float32)
    state = original_names(published(theirs, tmp_path)) | buffers
    table = swin_weights.original(detection=False, stages=2)
    leaves = table.to_ours({key: from_array(array) for key, array in state.items()}, "swin.pth")
    config, params = config_and_params(leaves)
    images = pictures(4, 2, 50, 39)
    with torch.no_grad():
        expected = theirs.swin(for_torch(images))
    last, pooled = encode(config, params, images)
    np.testing.assert_allclose(last.reshape(expected.last_hidden_state.shape), expected.last_hidden_state, **FEATURES)
    np.testing.assert_allclose(pooled, expected.pooler_output, **FEATURES)
    back = table.to_torch(leaves, "ours")
    known = {key: array for key, array in state.items() if key not in buffers and not key.startswith("head.")}
    assert back.keys() == known.keys()
    for key, array in known.items():
        np.testing.assert_array_equal(back[key].read(), array, err_msg=key, strict=True)


def test_a_map_smaller_than_a_window_is_a_window(tmp_path):
    """transformers can't do that: its model for the small window has the middle of the large one's bias table."""
    sizes = dict(embed_dim=6, depths=[2], num_heads=[2], window_size=3, image_size=12)
    theirs = randomize(SwinModel(transformers.SwinConfig(**sizes)), seed=5)
    table = swin_weights.transformers(detection=False, stages=1)
    _, params = config_and_params(table.to_ours(published(theirs, tmp_path), "random weights"))
    attn = params["stages_0"]["blocks"]["attn"]
    middle = attn["relative_bias"].reshape(2, 5, 5, 2)
    attn["relative_bias"] = np.pad(middle, ((0, 0), (2, 2), (2, 2), (0, 0)), constant_values=9).reshape(2, 81, 2)
    images = pictures(6, 2, 12, 12)
    with torch.no_grad():
        expected = theirs(for_torch(images)).last_hidden_state
    last, _ = encode(SwinConfig(width=6, depths=(2,), heads=(2,), window=5), params, images)
    np.testing.assert_allclose(last.reshape(expected.shape), expected, **FEATURES)


LAYOUTS = {
    "swin_backbone": ("", swin_weights.transformers()),
    "swin_model": ("", swin_weights.transformers(detection=False, stages=2)),
    "m2f_hf": (MASK2FORMER, swin_weights.transformers(MASK2FORMER)),
    "m2f_d2_entity": ("backbone.", swin_weights.original("backbone.")),
}


def assert_goes_out_as_it_came_in(table: Table, tensors: dict[str, LazyTensor]):
    back = table.to_torch(table.to_ours(tensors, "checkpoint"), "model")
    assert back.keys() == {key for key in tensors if not table.is_ignored(key)}
    assert len(back) > len(tensors) * 0.8
    for key, tensor in back.items():
        np.testing.assert_array_equal(tensor.read(), tensors[key].read(), err_msg=key, strict=True)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_goes_out_as_it_came_in(golden, name):
    prefix, table = LAYOUTS[name]
    assert_goes_out_as_it_came_in(table, under(prefix, open_weights(golden / "gella" / name)))


def test_a_backbone_alone_and_a_classifier_go_out_as_they_came_in(golden, tmp_path):
    tensors = under("backbone.", open_weights(golden / "gella" / "m2f_d2_entity"))
    alone = {key.removeprefix("backbone."): tensor for key, tensor in tensors.items()}
    assert_goes_out_as_it_came_in(swin_weights.original(), alone)
    table = swin_weights.transformers("swin.", detection=False, stages=2)
    assert_goes_out_as_it_came_in(table, published(classifier(seed=7), tmp_path))


PUBLISHED = {
    "tiny": (27_520_698, dict(embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24], window_size=7)),
    "small": (48_838_602, dict(embed_dim=96, depths=[2, 2, 18, 2], num_heads=[3, 6, 12, 24], window_size=7)),
    "base": (86_880_376, dict(embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32], window_size=12)),
    "large": (195_201_204, dict(embed_dim=192, depths=[2, 2, 18, 2], num_heads=[6, 12, 24, 48], window_size=12)),
}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_size(size, tmp_path):
    elements, public = PUBLISHED[size]
    with torch.device("meta"):
        theirs = SwinBackbone(transformers.SwinConfig(**public, out_features=STAGES))
    config = getattr(SwinConfig, size)()
    params = jax.eval_shape(lambda: swin.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == elements
    leaves = {
        path: LazyTensor(leaf.shape, np.dtype(np.float32), lambda shape=leaf.shape: np.broadcast_to(0.0, shape))
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    assert swin_weights.config(leaves) == config
    found = swin_weights.transformers().to_torch(leaves, "ours")
    # The shapes of the full size, whose names in memory are others; the names of a narrow one of the same depth.
    shapes = [tuple(x.shape) for key, x in theirs.named_parameters() if not key.startswith("swin.layernorm")]
    assert collections.Counter(tensor.shape for tensor in found.values()) == collections.Counter(shapes)
    narrow = public | dict(embed_dim=4, num_heads=[1, 1, 1, 1], window_size=2)
    names = published(SwinBackbone(transformers.SwinConfig(**narrow, out_features=STAGES)), tmp_path).keys()
    assert found.keys() == {key for key in names if not key.startswith("swin.layernorm")}
    images = jax.ShapeDtypeStruct((2, 800, 700, 3), jax.numpy.bfloat16)
    maps = jax.eval_shape(lambda p, x: swin.pyramid(config, p, x), params, images)
    sizes = [(2, 200, 175), (2, 100, 88), (2, 50, 44), (2, 25, 22)]
    assert [x.shape for x in maps] == [(*size, C) for size, C in zip(sizes, config.widths, strict=True)]
    assert {x.dtype for x in maps} == {images.dtype}


def test_stages_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match=r"depths \(2, 2\) and heads \(1,\) are not of the same number of stages"):
        SwinConfig(width=8, depths=(2, 2), heads=(1,))


@pytest.fixture(scope="module")
def small() -> tuple[SwinConfig, dict]:
    config = SwinConfig(width=4, depths=(3,), heads=(2,), window=3, drop_path=0.5)
    return config, jax.jit(swin.init, static_argnums=0, compiler_options=QUICK)(config, jax.random.key(0))


def test_what_is_dropped_depends_on_the_picture_s_key_alone(small):
    images, keys = pictures(8, 4, 20, 28), jax.random.split(jax.random.key(1), 5)
    (found,), (turned,) = pyramid(*small, images, keys[:4]), pyramid(*small, images[::-1], keys[3::-1])
    np.testing.assert_allclose(turned[::-1], found, atol=1e-5)
    (other,) = pyramid(*small, images, keys[1:])
    assert not np.allclose(other, found, atol=1e-2)


def test_a_dropped_branch_is_zero_and_a_kept_one_makes_up_for_it():
    x, keys = np.ones((1000, 1, 1, 2), np.float32), jax.random.split(jax.random.key(2), 1000)
    rows = np.asarray(swin.drop_path(x, keys, np.float32(0.2)))[:, 0, 0]
    assert {tuple(row) for row in np.round(rows, 5)} == {(0.0, 0.0), (1.25, 1.25)}
    assert abs(rows.mean() - 1) < 0.05


def test_full_remat_keeps_one_map_a_block_for_the_backward_pass():
    config = SwinConfig(width=4, depths=(5,), heads=(2,), window=4, mlp_ratio=50)
    images = pictures(9, 1, 64, 64)

    def kept(remat: str) -> int:
        """Numbers that the backward pass finds stored, the parameters included."""
        changed = dataclasses.replace(config, remat=remat)

        def pullback(params):
            return jax.vjp(lambda p: swin.pyramid(changed, p, images), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(pullback, params)))

    params = jax.eval_shape(lambda: swin.init(config, jax.random.key(0)))
    wide = sum(config.depths) * 16 * 16 * config.mlp_ratio * config.width
    assert kept("none") > wide
    assert kept("full") < wide / 4
    with pytest.raises(ValueError, match="remat is 'half', should be none or full"):
        dataclasses.replace(config, remat="half")
