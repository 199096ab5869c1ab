"""Mask2Former against the goldens, from pictures to masks, and against transformers' from random weights."""

import functools
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from grounding_jax.models import mask2former, swin
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mask2former.deformable import DeformableAttention, sample
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import mask2former as mask2former_weights
from grounding_jax.weights.tables import swin as swin_weights
from tests.torch_reference import parameters, randomize

FEATURES = dict(atol=1e-4, rtol=1e-4)
MASKS = dict(atol=5e-4, rtol=0)


class Golden(NamedTuple):
    """Weights, inputs and outputs of the reference."""

    backbone: SwinConfig
    config: Mask2FormerConfig
    params: dict
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def read_golden(path) -> Golden:
    of_hub, facts = path.name == "m2f_hf", json.loads((path / "config.json").read_text())
    table = mask2former_weights.transformers_with_swin() if of_hub else mask2former_weights.original_with_swin()
    leaves = table.to_ours(open_weights(path), str(path))
    config = mask2former_weights.config(leaves, heads=facts["num_attention_heads" if of_hub else "nheads"])
    backbone = {name.removeprefix("backbone/"): leaf for name, leaf in leaves.items() if name.startswith("backbone/")}
    inputs, outputs = (load_file(path / f"{name}.safetensors") for name in ("inputs", "outputs"))
    return Golden(swin_weights.config(backbone), config, folder.to_params(leaves, np.float32), inputs, outputs)


def channels_last(x: np.ndarray) -> np.ndarray:
    return x.transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("name", "case"), [("m2f_hf", "case0"), ("m2f_hf", "case1"), ("m2f_d2_entity", "case0")])
def test_golden(golden, name, case):
    """Every number there is: maps of the backbone, of the pixel decoder, predictions of all layers; then odd sizes."""
    g = read_golden(golden / "gella" / name)
    images = channels_last(g.inputs[f"{case}.pixel_values"].astype(np.float32))
    wanted = {key.removeprefix(f"{case}."): value for key, value in g.outputs.items() if key.startswith(case)}

    @jax.jit
    def run(params, images):
        maps = swin.pyramid(g.backbone, params["backbone"], images)
        mask_features, scales = mask2former.decode_pixels(g.config, params, maps)
        return maps, mask_features, scales, mask2former.decode_queries(g.config, params, mask_features, scales)

    maps, mask_features, scales, (last, earlier) = run(g.params, images)
    assert len(earlier) == g.config.decoder_layers
    found = {"pixel_decoder.mask_features": mask_features, "query_embeddings_normed": last.queries}
    found |= {f"backbone.res{i + 2}": x for i, x in enumerate(maps)}
    found |= {f"pixel_decoder.multi_scale.{i}": x for i, x in enumerate(scales)}
    for i, prediction in enumerate((*earlier, last)):
        found[f"layer{i}.class_logits"], found[f"layer{i}.mask_logits"] = prediction[:2]
    wanted.pop("query_embeddings", None)  # what the norm makes `query_embeddings_normed` of
    assert wanted.keys() <= found.keys()
    for key, value in wanted.items():
        if key.startswith(("backbone", "pixel_decoder")):
            value = channels_last(value)
        np.testing.assert_allclose(found[key], value, **(MASKS if "mask_logits" in key else FEATURES), err_msg=key)


def test_deformable_attention_of_the_release(golden):
    g = read_golden(golden / "gella" / "m2f_d2_entity")
    params = jax.tree.map(lambda leaf: leaf[0], g.params["pixel_decoder"]["layers"]["attn"])
    sizes = tuple(map(tuple, g.inputs["deform.spatial_shapes"].tolist()))
    attention = DeformableAttention(g.config.heads, g.config.points)
    found = attention.apply({"params": params}, g.inputs["deform.query"], g.inputs["deform.value_input"], sizes)
    np.testing.assert_allclose(found, g.outputs["deform.output"], **FEATURES)


def torch_sample(values, locations, weights, sizes) -> torch.Tensor:
    """`sample` by torch's grid_sample."""
    B, S, N, K = values.shape
    total, start = 0, 0
    for level, (h, w) in enumerate(sizes):
        table = values[:, start : start + h * w].permute(0, 2, 3, 1).reshape(B * N, K, h, w)
        grid = (locations[:, :, :, level] + 0.5) / torch.tensor([w, h]) * 2 - 1
        grid = grid.transpose(1, 2).flatten(0, 1)
        sampled = torch.nn.functional.grid_sample(table, grid, align_corners=False).reshape(B, N, K, S, -1)
        total = total + torch.einsum("BNKSp,BSNp->BSNK", sampled, weights[:, :, :, level])
        start += h * w
    return total


def test_sampling_and_its_gradients_agree_with_torch():
    """Far outside, across the border, and exactly on pixels, where untrained offsets lie.

    Sides are powers of two: torch wants fractions of them, which would not be exactly on pixels again otherwise.
    """
    sizes, B, N, K, points = ((2, 4), (4, 2)), 2, 3, 4, 3
    S = sum(math.prod(size) for size in sizes)
    rng = np.random.default_rng(0)
    values, outer = rng.normal(size=(2, B, S, N, K)).astype(np.float32)
    locations = rng.uniform(-2.5, 5.5, (B, S, N, 2, points, 2)).astype(np.float32)
    locations[..., :1, :] = locations[..., :1, :].round()
    weights = rng.uniform(size=(B, S, N, 2, points)).astype(np.float32)
    inputs = [torch.from_numpy(x).requires_grad_() for x in (values, locations, weights)]
    wanted = torch_sample(*inputs, sizes)
    (wanted * torch.from_numpy(outer)).sum().backward()

    @jax.jit
    def run(*inputs):
        found, backward = jax.vjp(lambda *inputs: sample(*inputs, sizes), *inputs)
        return found, backward(outer)

    found, gradients = run(values, locations, weights)
    np.testing.assert_allclose(found, wanted.detach(), atol=1e-5)
    for gradient, theirs in zip(gradients, inputs, strict=True):
        np.testing.assert_allclose(gradient, theirs.grad, atol=2e-5)


def transformers_model(channels: int, **sizes) -> transformers.Mask2FormerForUniversalSegmentation:
    """transformers' model; its Swin gives maps of `channels`, twice that, ..."""
    backbone = transformers.SwinConfig(
        embed_dim=channels, depths=[1] * 4, num_heads=[1] * 4, out_features=[f"stage{i}" for i in (1, 2, 3, 4)]
    )
    config = transformers.Mask2FormerConfig(backbone_config=backbone, use_auxiliary_loss=True, **sizes)
    return transformers.Mask2FormerForUniversalSegmentation(config)


def decoders(model) -> dict[str, torch.Tensor]:
    """The state dict without the backbone."""
    return {key: x for key, x in model.state_dict().items() if not key.startswith("model.pixel_level_module.encoder.")}


def test_agrees_with_transformers():
    """One channel a group, a layer more than maps, maps that halve to odd sizes, three pictures."""
    theirs = transformers_model(
        6, hidden_dim=32, feature_size=32, mask_feature_size=32, num_attention_heads=2, num_queries=7,
        encoder_layers=3, encoder_feedforward_dim=40, decoder_layers=5, dim_feedforward=24, num_labels=4,
    )  # fmt: skip
    randomize(theirs, seed=5)
    params = parameters(mask2former_weights.transformers(), decoders(theirs))
    config = Mask2FormerConfig(
        classes=4, channels=(6, 12, 24, 48), queries=7, width=32, heads=2, encoder_layers=3, encoder_hidden=40,
        decoder_layers=4, decoder_hidden=24,
    )  # fmt: skip
    rng = np.random.default_rng(6)
    sizes = ((13, 9), (7, 5), (4, 3), (2, 2))
    maps = [
        rng.normal(size=(3, *size, width)).astype(np.float32)
        for size, width in zip(sizes, config.channels, strict=True)
    ]
    with torch.no_grad():
        pixels = theirs.model.pixel_level_module.decoder([torch.from_numpy(x.transpose(0, 3, 1, 2)) for x in maps])
        wanted = theirs.model.transformer_module(
            pixels.multi_scale_features, pixels.mask_features, output_hidden_states=True
        )
        states = [state.transpose(0, 1) for state in wanted.intermediate_hidden_states]
        classes = [theirs.class_predictor(state) for state in states]
    last, earlier = jax.jit(lambda params, maps: mask2former.predict(config, params, maps))(params, maps)
    for i, prediction in enumerate((*earlier, last)):
        np.testing.assert_allclose(prediction.queries, states[i], **FEATURES, err_msg=f"states of {i}")
        np.testing.assert_allclose(prediction.class_logits, classes[i], **FEATURES, err_msg=f"classes of {i}")
        masks = wanted.masks_queries_logits[i]
        np.testing.assert_allclose(prediction.mask_logits, masks, **MASKS, err_msg=f"masks of {i}")


PUBLISHED = {
    "coco_panoptic_swin_t": (96, 100, 133),
    "coco_panoptic_swin_l": (192, 200, 133),
    "coco_instance_swin_l": (192, 200, 80),
    "entity": (96, 100, 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_size(name):
    """As many parameters as transformers' model has."""
    channels, queries, classes = PUBLISHED[name]
    config = getattr(Mask2FormerConfig, name)()
    params = jax.eval_shape(lambda: mask2former.init(config, jax.random.key(0)))
    with torch.device("meta"):
        theirs = transformers_model(channels, num_queries=queries, num_labels=classes)
    wanted = sum(tensor.numel() for key, tensor in decoders(theirs).items() if key != "criterion.empty_weight")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == wanted


def test_shapes_at_800_pixels():
    """In the dtype of the maps; the norms, the softmax and the places that are sampled are float32 inside."""
    config = Mask2FormerConfig.coco_panoptic_swin_l(remat="full")
    params = jax.eval_shape(lambda: mask2former.init(config, jax.random.key(0)))
    maps = [
        jax.ShapeDtypeStruct((2, 200 // 2**i, 200 // 2**i, width), jnp.bfloat16)
        for i, width in enumerate(config.channels)
    ]
    last, earlier = jax.eval_shape(lambda params, maps: mask2former.predict(config, params, maps), params, maps)
    assert len(earlier) == 9
    for prediction in (*earlier, last):
        assert [x.shape for x in prediction] == [(2, 200, 134), (2, 200, 200, 200), (2, 200, 256)]
        assert {x.dtype for x in prediction} == {jnp.dtype(jnp.bfloat16)}


def test_remat_without_a_name_it_knows():
    with pytest.raises(ValueError, match="remat is 'half', should be none or full"):
        Mask2FormerConfig.entity(remat="half")


def test_untrained_heads_look_where_those_of_transformers_do():
    """Whatever the query; only the biases of the offsets are not zero."""
    theirs = transformers_model(4, hidden_dim=32, feature_size=32, mask_feature_size=32, encoder_layers=1)
    wanted = parameters(mask2former_weights.transformers(), decoders(theirs))["pixel_decoder"]["layers"]["attn"]
    x = jnp.zeros((1, 3, 32))
    attention = DeformableAttention(heads=8, points=4)
    found = jax.jit(lambda: attention.init(jax.random.key(0), x, x, ((1, 1),) * 3)["params"])()
    for leaf in ("offset_bias", "offsets/kernel", "weights/kernel", "weights/bias"):
        ours, reference = (functools.reduce(dict.get, leaf.split("/"), tree) for tree in (found, wanted))
        np.testing.assert_allclose(ours, reference[0], atol=1e-5, err_msg=leaf)  # their cosines are float32
    assert np.abs(wanted["offset_bias"]).max() == 4
