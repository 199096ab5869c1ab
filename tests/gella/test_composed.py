"""A GELLA put together in torch from the parts of the goldens, and ours, from pictures to logits (spec gella l).

LLaVA and Mask2Former with its Swin are transformers' modules with the weights of `llava15` and `m2f_d2_entity`; a token
of `llava15` that has no other meaning is [SEG]. ResoBlend and the association are written in torch here, from the text
of the specification alone, with the weights of `gella_ref` where these have the sizes. Drawn are the layers that join
parts of different widths: ResoBlend's `v_proj`, `mask_proj` and `conv` of the maps 1 to 3, and the association's layers
that read states and queries, which are all there is of its kind "fc".
"""

import dataclasses
import json
import math
from typing import NamedTuple

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.numpy import load_file

from gella_jax import model, resoblend
from gella_jax.association import AssociationConfig
from gella_jax.colormap import repeatable_rng
from gella_jax.config import GellaConfig
from gella_jax.data import arrays as inputs
from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.data.entity_masks import Entities
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.llava import IMAGE_TOKEN
from grounding_jax.models.mask2former import Mask2FormerConfig, Prediction
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import llava
from grounding_jax.weights.tables import mask2former as mask2former_weights
from grounding_jax.weights.writers import write_safetensors
from tests.gella.test_resoblend import table as blend_table
from tests.small_gella import small_picture
from tests.torch_reference import parameters

FEATURES = dict(atol=1e-4, rtol=1e-4)
MASKS = dict(atol=5e-4, rtol=0)
QUICK = {"xla_backend_optimization_level": 0}  # these models take longer to compile than to run

CHANNELS = (8, 16, 32, 64)
BLEND = dict(image_width=48, width=32, hidden=64, heads=4)
IMAGE_ID, SEG = 127, 126  # in transformers' rows
CONFIG = GellaConfig(
    llama=LlamaConfig(vocab_size=128, width=64, hidden=112, layers=2, heads=4, kv_heads=4, eps=1e-5),
    clip=ClipConfig(image_size=56, patch_size=14, width=48, hidden=96, layers=3, heads=4),
    backbone=SwinConfig(width=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 4), window=4),
    blend=ResoBlendConfig.paper(CHANNELS, **BLEND),
    mask2former=Mask2FormerConfig.entity(
        channels=CHANNELS, queries=12, width=64, heads=4, encoder_layers=2, encoder_hidden=96, decoder_layers=5,
        decoder_hidden=96,
    ),
    association=AssociationConfig(text_width=64, query_width=64, width=16),
    side=64,
)  # fmt: skip


def variant(preset: str, seg_state: str, kind: str) -> GellaConfig:
    blend = getattr(ResoBlendConfig, preset)(CHANNELS, **BLEND)
    association = dataclasses.replace(CONFIG.association, kind=kind)
    return dataclasses.replace(CONFIG, blend=blend, association=association, seg_state=seg_state)


VARIANTS = {
    "paper": variant("paper", "at", "fc"),
    "skip": variant("skip", "predicting", "fc_relu_fc"),
    "mask_query": variant("mask_query", "at", "fc_relu_fc"),
}


class Outputs(NamedTuple):
    """What either side says: `nouns` of the association are those of all rows, one after the other."""

    features: np.ndarray  # Z_v [B, P, C]
    logits: np.ndarray  # of the text [B, T, V]
    blended: list[np.ndarray]  # [B, C, h, w]
    predictions: list[Prediction]  # of all layers
    association: np.ndarray  # [nouns, Q]


class Theirs(NamedTuple):
    """The parts in torch; `weights` are those of ResoBlend and the association."""

    llava: transformers.LlavaForConditionalGeneration
    mask2former: transformers.Mask2FormerForUniversalSegmentation
    weights: dict[str, torch.Tensor]


def joined_weights(path) -> dict[str, torch.Tensor]:
    """Those of `gella_ref`, drawn anew with the deviations of its own where parts of other widths meet."""
    weights = {key: torch.from_numpy(x.astype(np.float32)) for key, x in load_file(path / "model.safetensors").items()}
    shapes = {"resoblend.v_proj": (32, 48)}
    for i, channels in enumerate(CHANNELS[1:], 1):
        shapes[f"resoblend.mask_proj.{i}"] = (32, channels)
        shapes[f"resoblend.conv.{i}"] = (channels, 32, 3, 3)
    for kind in ("fc", "fc_relu_fc"):
        shapes |= {f"assoc.{kind}.{side}.0": (16, 64) for side in ("text", "entity")}
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        weights[f"{name}.weight"] = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
        weights[f"{name}.bias"] = 0.1 * torch.randn(shape[:1], generator=generator)
    return weights


@pytest.fixture(scope="module")
def theirs(golden, tmp_path_factory) -> Theirs:
    options = dict(dtype=torch.float32, output_loading_info=True)
    language, missed = transformers.LlavaForConditionalGeneration.from_pretrained(golden / "gella/llava15", **options)
    assert not missed["missing_keys"] and not missed["unexpected_keys"]
    path, source = tmp_path_factory.mktemp("mask2former"), golden / "gella/m2f_d2_entity"
    leaves = mask2former_weights.original_with_swin().to_ours(open_weights(source), str(source))
    write_safetensors(path, mask2former_weights.transformers_with_swin().to_torch(leaves, str(path)))
    public = mask2former_weights.public(CONFIG.mask2former, CONFIG.backbone, np.dtype(np.float32))
    (path / "config.json").write_text(json.dumps(public))
    masks, missed = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(path, **options)
    assert not missed["unexpected_keys"]
    # A buffer of the loss, and a norm that a SwinBackbone has and never uses.
    assert all("empty_weight" in key or ".swin.layernorm." in key for key in missed["missing_keys"])
    return Theirs(language.eval(), masks.eval(), joined_weights(golden / "gella/gella_ref"))


@pytest.fixture(scope="module")
def params(golden, theirs) -> dict[str, dict]:
    """Our tree for every kind of association."""
    leaves = {}
    for name, table in (
        ("llava15", llava.transformers() + llava.transformers_tower()),
        ("m2f_d2_entity", mask2former_weights.original_with_swin()),
    ):
        path = golden / "gella" / name
        leaves[name] = folder.to_params(table.to_ours(open_weights(path), str(path)), np.dtype(np.float32))
    backbone = leaves["m2f_d2_entity"].pop("backbone")
    shared = {**leaves["llava15"], "backbone": backbone, "mask2former": leaves["m2f_d2_entity"]}
    shared["blend"] = parameters(blend_table(), theirs.weights)

    def linear(name):
        return {"kernel": theirs.weights[f"{name}.weight"].numpy().T, "bias": theirs.weights[f"{name}.bias"].numpy()}

    sides = {"text": "text", "query": "entity"}
    kinds = {
        "fc": {ours: linear(f"assoc.fc.{side}.0") for ours, side in sides.items()},
        "fc_relu_fc": {
            ours: {f"fc{i + 1}": linear(f"assoc.fc_relu_fc.{side}.{i}") for i in range(2)}
            for ours, side in sides.items()
        },
    }
    return {kind: {**shared, "association": association} for kind, association in kinds.items()}


@pytest.fixture(scope="module")
def batch() -> dict[str, np.ndarray]:
    """Two pictures of different shapes with overlapping and hidden masks, and texts of different lengths.

    Besides what `model.forward` takes, `text`: ids as transformers has them, 0 where there is no text. The second text
    ends in [SEG].
    """
    arrays = []
    for seed, size in enumerate(((50, 70), (64, 40))):
        image, masks = small_picture(seed, size)
        entities = Entities(masks, tuple(range(len(masks))), ("",) * len(masks))
        colormap = inputs.draw(CONFIG, entities, repeatable_rng(str(seed), seed=0)).colormap
        arrays.append({**inputs.picture_arrays(CONFIG, image), "colormaps": colormap})
    prefix = [1, 33, *[IMAGE_ID] * CONFIG.clip.num_patches]
    text = np.array(
        [[*prefix, 17, 5, SEG, 40, SEG, 77, 31, SEG, 2], [*prefix, 60, SEG, 8, 12, SEG, *[0] * 4]], np.int32
    )
    slots = np.broadcast_to(np.arange(text.shape[1], dtype=np.int32), text.shape)
    predicting = np.full((2, 3), -1, np.int32)
    for row, out in zip(text, predicting, strict=True):
        slot = np.flatnonzero(row == SEG)
        out[: len(slot)] = slot - 1
    return {
        **{name: np.stack([each[name] for each in arrays]) for name in arrays[0]},
        "ids": np.where(text == IMAGE_ID, IMAGE_TOKEN, text),
        "positions": np.where(text > 0, slots, 0),
        "branch": np.where(text > 0, slots >= len(prefix), -1).astype(np.int32),
        "seg_positions": predicting,
        "text": text,
    }


def linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def layer_norm(weights, name, x):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def positions(h: int, w: int, width: int) -> torch.Tensor:
    """[h * w, width] (A6)."""
    i = torch.arange(width // 2)
    waves = 10000 ** (2 * (i // 2) / len(i))
    axes = []
    for side in (h, w):
        angle = (torch.arange(side)[:, None] + 1) / (side + 1e-6) * 2 * math.pi / waves
        axes.append(torch.where(i % 2 == 0, angle.sin(), angle.cos()))
    return torch.cat([axes[0].repeat_interleave(w, 0), axes[1].repeat(h, 1)], -1)


def attend(weights, name, q, k, v, heads=BLEND["heads"]):
    q, k, v = (
        linear(weights, f"{name}.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
        for part, x in (("q", q), ("k", k), ("v", v))
    )
    y = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
    return linear(weights, f"{name}.o", y.transpose(1, 2).flatten(2))


def their_blend(weights, features, maps, by_masks: bool, skip: bool) -> list[torch.Tensor]:
    """ResoBlend (A4): the picture [B, P, C] looks at the maps [B, C, h, w], or `by_masks` they look at the picture."""
    weights = {key.removeprefix("resoblend."): x for key, x in weights.items()}
    image = linear(weights, "v_proj", features)
    side = math.isqrt(image.shape[1])
    there = positions(side, side, image.shape[-1])
    refined = layer_norm(weights, "sa_norm", image + attend(weights, "sa", image + there, image + there, image))
    blended = []
    for i, masks in enumerate(maps):
        size = masks.shape[2:]
        tokens = linear(weights, f"mask_proj.{i}", masks.flatten(2).mT)
        tokens = layer_norm(weights, f"mask_norm.{i}", tokens)
        here = positions(*size, tokens.shape[-1])
        if by_masks:
            x, shortcut, grid = attend(weights, f"ca.{i}", tokens + here, refined + there, refined), tokens, size
        else:
            x, shortcut, grid = attend(weights, f"ca.{i}", refined + there, tokens + here, tokens), image, (side, side)
        x = linear(weights, f"ff2.{i}", F.gelu(linear(weights, f"ff1.{i}", x))) + shortcut
        x = F.conv2d(x.mT.unflatten(2, grid), weights[f"conv.{i}.weight"], weights[f"conv.{i}.bias"], padding=1)
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        blended.append(x + masks if skip else x)
    return blended


def their_association(weights, kind, nouns, queries) -> torch.Tensor:
    """Dot products (A10): ``[M, D], [Q, C] -> [M, Q]``."""
    both = []
    for side, x in (("text", nouns), ("entity", queries)):
        x = linear(weights, f"assoc.{kind}.{side}.0", x)
        both.append(linear(weights, f"assoc.{kind}.{side}.1", x.relu()) if kind == "fc_relu_fc" else x)
    return both[0] @ both[1].T


def normalized(pixels: np.ndarray, mean, std, unit: float = 1.0) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W]."""
    x = (torch.from_numpy(pixels).double() / unit - torch.tensor(mean).double()) / torch.tensor(std).double()
    return x.float().permute(0, 3, 1, 2)


def clip_pixels(batch) -> torch.Tensor:
    """Padded with zeros after they are normalised (A8)."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = normalized(batch["clip_images"], mean, std, 255.0)
    for x, (h, w) in zip(pixels, batch["clip_resized"], strict=True):
        x[:, h:], x[:, :, w:] = 0, 0
    return pixels


def their_queries(theirs, maps) -> list[Prediction]:
    """Both decoders of Mask2Former: predictions of all layers."""
    pixels = theirs.mask2former.model.pixel_level_module.decoder(maps)
    module = theirs.mask2former.model.transformer_module
    found = module(pixels.multi_scale_features, pixels.mask_features, output_hidden_states=True)
    states = [state.transpose(0, 1) for state in found.intermediate_hidden_states]
    classes = map(theirs.mask2former.class_predictor, states)
    return [Prediction(*each) for each in zip(classes, found.masks_queries_logits, states, strict=True)]


@pytest.fixture(scope="module")
def wanted(theirs, batch) -> dict[str, Outputs]:
    with torch.no_grad():
        text, pixels = torch.from_numpy(batch["text"]).long(), clip_pixels(batch)
        features = theirs.llava.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        inputs = dict(input_ids=text, attention_mask=(text > 0).long(), pixel_values=pixels)
        read = theirs.llava(**inputs, output_hidden_states=True)
        colours = normalized(batch["colormaps"], (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
        maps = theirs.mask2former.model.pixel_level_module.encoder(colours).feature_maps
        outputs = {}
        for name, config in VARIANTS.items():
            blended = their_blend(theirs.weights, features, maps, name == "mask_query", name != "paper")
            predictions = their_queries(theirs, blended)
            states, before = read.hidden_states[-1], int(config.seg_state == "predicting")
            pairs = [
                their_association(theirs.weights, config.association.kind, states[i, slot - before], queries)
                for i, queries in enumerate(predictions[-1].queries)
                for slot in (text[i] == SEG).nonzero().T
            ]
            outputs[name] = Outputs(features, read.logits, blended, predictions, torch.cat(pairs))
    return jax.tree.map(lambda x: x.numpy(), outputs)


@pytest.fixture(scope="module")
def found(params, batch) -> dict[str, Outputs]:
    """What `model.forward` gives, and what goes through ResoBlend inside it."""
    inside, blend = [], resoblend.blend

    def recording(config, params, features, maps):
        inside.append((features, blend(config, params, features, maps)))
        return inside[-1][1]

    def run(params, batch):
        forward = [model.forward(config, params[config.association.kind], batch) for config in VARIANTS.values()]
        return forward, inside

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resoblend, "blend", recording)
        given = {name: x for name, x in batch.items() if name != "text"}
        ours = jax.device_get(jax.jit(run, compiler_options=QUICK)(params, given))
    outputs = {}
    for name, forward, (features, blended) in zip(VARIANTS, *ours, strict=True):
        last, earlier = forward["entities"]
        blended = [x.transpose(0, 3, 1, 2) for x in blended]
        association = forward["association"][batch["seg_positions"] >= 0]
        outputs[name] = Outputs(features, forward["logits"], blended, [*earlier, last], association)
    return outputs


def test_the_colormaps_have_all_there_is(batch):
    """Background, padding, and as many colours as masks are seen: four, and three where one lies outside."""
    colours = [len(np.unique(colormap.reshape(-1, 3), axis=0)) for colormap in batch["colormaps"]]
    assert colours == [5, 4]
    assert batch["clip_resized"].tolist() == [[40, 56], [56, 35]]


@pytest.mark.parametrize("name", VARIANTS)
def test_text(wanted, found, batch, name):
    """What CLIP gives both branches, and the logits of all tokens."""
    np.testing.assert_allclose(found[name].features, wanted[name].features, **FEATURES)
    real = batch["text"] > 0
    np.testing.assert_allclose(found[name].logits[real], wanted[name].logits[real], **FEATURES)


@pytest.mark.parametrize("name", VARIANTS)
def test_entities(wanted, found, name):
    """The blended maps, then queries, classes and masks of all layers."""
    for i, (ours, theirs) in enumerate(zip(found[name].blended, wanted[name].blended, strict=True)):
        np.testing.assert_allclose(ours, theirs, **FEATURES, err_msg=f"map {i}")
    for i, (ours, theirs) in enumerate(zip(found[name].predictions, wanted[name].predictions, strict=True)):
        np.testing.assert_allclose(ours.queries, theirs.queries, **FEATURES, err_msg=f"queries of {i}")
        np.testing.assert_allclose(ours.class_logits, theirs.class_logits, **FEATURES, err_msg=f"classes of {i}")
        np.testing.assert_allclose(ours.mask_logits, theirs.mask_logits, **MASKS, err_msg=f"masks of {i}")


@pytest.mark.parametrize("name", VARIANTS)
def test_association(wanted, found, name):
    assert wanted[name].association.shape == (5, 12)
    np.testing.assert_allclose(found[name].association, wanted[name].association, **FEATURES)


@pytest.mark.parametrize("name", VARIANTS)
def test_rounding_moves_no_place_into_or_out_of_a_mask(wanted, found, name):
    """Logits at the places that masked attention looks at are farther from 0 than the two sides are from each other.

    Otherwise the comparison above could fail, or hold, by chance.
    """
    for i in range(CONFIG.mask2former.decoder_layers):
        side = CONFIG.side // 32 * 2 ** (i % 3)
        ours, theirs = (
            F.interpolate(torch.tensor(x[name].predictions[i].mask_logits), (side, side), mode="bilinear")
            for x in (found, wanted)
        )
        assert theirs.abs().min() > 2 * (ours - theirs).abs().max(), f"layer {i}"
