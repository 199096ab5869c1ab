"""ResoBlend against the golden numbers, the masks that look at the picture against torch, and memory."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file

from gella_jax import resoblend
from gella_jax.resoblend import ResoBlendConfig, attention_in_blocks
from grounding_jax.models.attention import attention
from grounding_jax.models.mask2former.positions import sine_positions
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.rules import layer, norm
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.transforms import CONV, CONV_1X1

FEATURES = dict(atol=1e-4, rtol=1e-4)
CONFIG = ResoBlendConfig.paper((8, 12, 16, 24), image_width=32, width=32, hidden=64, heads=4)
SWITCHES = ("sa", "ca", "ff", "res", "conv")
QUICK = {"xla_backend_optimization_level": 0}  # these models take longer to compile than to run


def table() -> Table:
    """The golden's names, for all switches at once: those of its layers that a config does not have go unused."""
    scales = [
        *layer("mask_proj.{i}", "scales_{i}/mask_proj"),
        *norm("mask_norm.{i}", "scales_{i}/mask_norm"),
        *layer("ff1.{i}", "scales_{i}/mlp/fc1"),
        *layer("ff2.{i}", "scales_{i}/mlp/fc2"),
        Rule("conv.{i}.weight", "scales_{i}/conv/kernel", CONV),
        Rule("conv.{i}.bias", "scales_{i}/conv_bias"),
        *layer("point.{i}", "scales_{i}/point", CONV_1X1),
    ]
    for name in "qkvo":
        scales += layer(f"ca.{{i}}.{name}", f"scales_{{i}}/cross_attn/{name}") + layer(
            f"sa.{name}", f"self_attn/{name}"
        )
    shared = [*layer("v_proj", "image_proj"), *norm("sa_norm", "self_norm")]
    return Table((*scales, *shared)).prefixed("resoblend.", "") + Table((), ignored=("assoc.*",))


@pytest.fixture(scope="module")
def reference(golden) -> tuple[dict, np.ndarray, list[np.ndarray], dict]:
    """(parameters, features of the picture, maps, outputs)."""
    path = golden / "gella/gella_ref"
    params = folder.to_params(table().to_ours(open_weights(path), str(path)), np.dtype(np.float32))
    inputs = load_file(path / "inputs.safetensors")
    maps = [inputs[f"resoblend.pyramid.{i}"].transpose(0, 2, 3, 1) for i in range(4)]
    return params, inputs["resoblend.zv"], maps, load_file(path / "outputs.safetensors")


@pytest.fixture(scope="module")
def results(reference) -> dict[str, list[np.ndarray]]:
    """What all configs under test give, [B, C, h, w], from one compilation."""
    configs = {f"no_{name.upper()}": dataclasses.replace(CONFIG, **{name: False}) for name in SWITCHES}
    configs |= {"full": CONFIG, "skip": dataclasses.replace(CONFIG, mask_skip=True)}
    sizes = {name: getattr(CONFIG, name) for name in ("channels", "image_width", "width", "hidden", "heads")}
    configs["mask_query"] = ResoBlendConfig.mask_query(**sizes)

    def run(params, features, maps):
        return {name: resoblend.blend(config, params, features, maps) for name, config in configs.items()}

    outputs = jax.jit(run, compiler_options=QUICK)(*reference[:3])
    return jax.tree.map(lambda x: np.asarray(x).transpose(0, 3, 1, 2), outputs)


@pytest.mark.parametrize("case", ["full", *(f"no_{name.upper()}" for name in SWITCHES)])
def test_golden(reference, results, case):
    outputs = reference[3]
    for i, found in enumerate(results[case]):
        if case != "full":  # stored thinned out
            found = found[:1, :, ::3, ::3]
        np.testing.assert_allclose(found, outputs[f"resoblend.{case}.{i}"], **FEATURES, err_msg=f"{case} {i}")


def test_skip_adds_the_maps(reference, results):
    for masks, skip, full in zip(reference[2], results["skip"], results["full"], strict=True):
        np.testing.assert_allclose(skip, full + masks.transpose(0, 3, 1, 2), atol=1e-6)


def test_masks_that_look_at_the_picture_agree_with_torch(reference, golden, results):
    """The same layers with exchanged roles, in torch's own attention."""
    _, features, maps, _ = reference
    path = golden / "gella/gella_ref/model.safetensors"
    w = {key: torch.from_numpy(value.astype(np.float32)) for key, value in load_file(path).items()}

    def linear(x, name):
        return F.linear(x, w[f"resoblend.{name}.weight"], w[f"resoblend.{name}.bias"])

    def layer_norm(x, name):
        return F.layer_norm(x, x.shape[-1:], w[f"resoblend.{name}.weight"], w[f"resoblend.{name}.bias"])

    def attend(q, k, v, name):
        packed = [torch.cat([w[f"resoblend.{name}.{part}.{leaf}"] for part in "qkv"]) for leaf in ("weight", "bias")]
        out = [w[f"resoblend.{name}.o.{leaf}"] for leaf in ("weight", "bias")]
        tokens = (x.transpose(0, 1) for x in (q, k, v))
        y, _ = F.multi_head_attention_forward(*tokens, 32, 4, *packed, None, None, False, 0.0, *out, need_weights=False)
        return y.transpose(0, 1)

    def places(side):
        return torch.from_numpy(np.array(sine_positions(side, side, 32))).reshape(-1, 32)

    image = linear(torch.from_numpy(features), "v_proj")
    image = layer_norm(image + attend(image + places(4), image + places(4), image, "sa"), "sa_norm")
    for i, masks in enumerate(map(torch.from_numpy, maps)):
        B, side, _, _ = masks.shape
        y = layer_norm(linear(masks.reshape(B, side**2, -1), f"mask_proj.{i}"), f"mask_norm.{i}")
        x = attend(y + places(side), image + places(4), image, f"ca.{i}")
        x = linear(F.gelu(linear(x, f"ff1.{i}")), f"ff2.{i}") + y
        x = x.transpose(1, 2).reshape(B, 32, side, side)
        x = F.conv2d(x, w[f"resoblend.conv.{i}.weight"], w[f"resoblend.conv.{i}.bias"], padding=1)
        np.testing.assert_allclose(results["mask_query"][i], x + masks.permute(0, 3, 1, 2), **FEATURES, err_msg=str(i))


@pytest.mark.parametrize("T, S", [(7, 30), (30, 7)])
def test_attention_in_blocks_is_attention(T, S):
    keys = jax.random.split(jax.random.key(0), 4)
    q, k, v, ct = (jax.random.normal(key, (2, n, 3, 4)) for key, n in zip(keys, (T, S, S, T), strict=True))

    def both(*qkv):
        return [
            (y, pullback(ct))
            for y, pullback in (
                jax.vjp(function, *qkv) for function in (attention, lambda *qkv: attention_in_blocks(*qkv, block=47))
            )
        ]

    whole, blocks = jax.jit(both, compiler_options=QUICK)(q, k, v)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), whole, blocks)


@pytest.mark.parametrize("T, S", [(24 * 24, 200 * 200), (200 * 200, 24 * 24)], ids=["image", "mask"])
def test_logits_at_stride_4_of_800_pixels_are_never_all_there(T, S):
    """Forward and backward; at once they are 737 MB."""

    def loss(q, k, v):
        return attention_in_blocks(q, k, v).sum()

    shapes = [jax.ShapeDtypeStruct((1, n, 8, 32), jnp.float32) for n in (T, S, S)]
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)), compiler_options=QUICK).lower(*shapes).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 250e6


@pytest.mark.parametrize("preset", ["paper", "skip", "mask_query"])
@pytest.mark.parametrize("channels", [(96, 192, 384, 768), (24, 32, 96, 320)], ids=["Swin-T", "MobileNetV2"])
def test_shapes_at_800_pixels(preset, channels):
    config = getattr(ResoBlendConfig, preset)(channels)
    params = jax.eval_shape(lambda: resoblend.init(config, jax.random.key(0)))
    sides = (200, 100, 50, 25)
    maps = [jax.ShapeDtypeStruct((2, n, n, C), jnp.bfloat16) for n, C in zip(sides, channels, strict=True)]
    features = jax.ShapeDtypeStruct((2, 576, 1024), jnp.bfloat16)
    outputs = jax.eval_shape(lambda *x: resoblend.blend(config, *x), params, features, maps)
    assert [(x.shape, x.dtype) for x in outputs] == [(x.shape, x.dtype) for x in maps]
    D, F = 256, 1024
    shared = 1024 * D + D + 4 * (D * D + D) + 2 * D
    scales = [(C * D + D) + 2 * D + 4 * (D * D + D) + (2 * D * F + F + D) + (9 * D * C + C) for C in channels]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == shared + sum(scales)


def test_without_cross_attention_there_is_no_picture():
    config = dataclasses.replace(CONFIG, ca=False)
    params = jax.eval_shape(lambda: resoblend.init(config, jax.random.key(0)))
    assert params.keys() == {f"scales_{i}" for i in range(4)}
    assert all(scale.keys() == {"mask_proj", "mask_norm", "mlp", "conv", "conv_bias"} for scale in params.values())


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="query is 'text', should be image or mask"):
        dataclasses.replace(CONFIG, query="text")
    shapes = [jax.ShapeDtypeStruct((1, n, 32), jnp.float32) for n in (16, 15)]
    maps = [jax.ShapeDtypeStruct((1, 4, 4, C), jnp.float32) for C in CONFIG.channels]
    params = jax.eval_shape(lambda: resoblend.init(CONFIG, jax.random.key(0)))
    with pytest.raises(ValueError, match="has 15 patches, which are no square grid"):
        jax.eval_shape(lambda *x: resoblend.blend(CONFIG, *x), params, shapes[1], maps)
