"""Counted FLOPs against XLA's own count, on small sizes with every loop unrolled, and against numbers of the spec."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest

from gella_jax import resoblend
from gella_jax.flops import backbone_flops, resoblend_flops
from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.models import clip, llama, mask2former, mobilenet, sam, swin
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.planning.flops import (
    clip_flops,
    counted_by_xla,
    head_flops,
    llama_flops,
    mask_decoder_flops,
    pixel_decoder_flops,
    places,
    sam_encoder_flops,
    transformer_decoder_flops,
)
from gsva_jax.config import GsvaConfig
from gsva_jax.flops import training_flops

CHANNELS = (64, 128, 256, 512)


def floats(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def params(model, config, **options):
    return jax.eval_shape(lambda key: model.init(config, key, **options), jax.random.key(0))


def maps(channels, side):
    return [floats(1, side // stride, side // stride, C) for stride, C in zip((4, 8, 16, 32), channels, strict=True)]


def test_loops_are_unrolled():
    """Also one inside another, in a jitted function, and in the branch of a platform."""
    m = floats(8, 8)

    def inner(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x, default=lambda x: jax.lax.map(lambda row: row @ x, x))

    def outer(x):
        return jax.lax.fori_loop(0, 3, lambda _, x: jax.jit(inner)(x), x)

    assert counted_by_xla(lambda tree: outer(tree["x"]), {"x": m}) == pytest.approx(3 * 8 * 2 * 8 * 8, rel=0.02)


def test_llama():
    """XLA counts softmax, norms and rotations, too: those are a few percent here."""
    config = LlamaConfig(vocab_size=640, width=256, hidden=704, layers=3, heads=4, kv_heads=2)

    def run(params, x, positions):
        hidden, _ = llama.decode(config, params, x, positions, positions)
        return llama.logits(config, params, hidden)

    slots = jax.ShapeDtypeStruct((1, 96), jnp.int32)
    xla = counted_by_xla(run, params(llama, config), floats(1, 96, 256), slots)
    assert llama_flops(config, 96) + head_flops(config, 96) == pytest.approx(xla, rel=0.06)


def test_clip():
    config = ClipConfig(image_size=96, patch_size=8, width=256, hidden=1024, layers=2, heads=4)
    xla = counted_by_xla(functools.partial(clip.encode, config), params(clip, config), floats(1, 96, 96, 3))
    assert clip_flops(config) == pytest.approx(xla, rel=0.06)


def test_sam():
    config = dataclasses.replace(
        SamConfig.vit_b(), width=192, layers=2, heads=4, global_blocks=(1,), image_size=256, window=6, prompt_width=256
    )
    weights = params(sam, config)
    xla = counted_by_xla(lambda p, image: sam.encode_image(config, p, image)[0], weights, floats(1, 256, 256, 3))
    assert sam_encoder_flops(config) == pytest.approx(xla, rel=0.08)
    inputs = floats(3, 16, 16, 256), floats(3, 1, 256)
    xla = counted_by_xla(lambda p, image, text: sam.predict_masks(config, p, image, text=text)[0], weights, *inputs)
    assert 3 * mask_decoder_flops(config) == pytest.approx(xla, rel=0.1)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (swin, SwinConfig(width=96, depths=(2, 1, 3, 1), heads=(3, 6, 12, 24), window=4)),
        (mobilenet, MobileNetConfig.torchvision()),
    ],
    ids=("swin", "mobilenet"),
)
def test_backbones(model, config):
    """On an odd size, and windows that have to be padded. XLA leaves out the products of a convolution's padding."""
    xla = counted_by_xla(functools.partial(model.pyramid, config), params(model, config), floats(1, 234, 234, 3))
    assert backbone_flops(config, 234) == pytest.approx(xla, rel=0.06)


def test_mask2former():
    """XLA counts resizing, too, which grows faster than the rest."""
    config = Mask2FormerConfig.entity(channels=CHANNELS, encoder_layers=2, decoder_layers=4, decoder_hidden=512)
    weights, side = params(mask2former, config), 128
    xla = counted_by_xla(functools.partial(mask2former.decode_pixels, config), weights, maps(CHANNELS, side))
    assert pixel_decoder_flops(config, side) == pytest.approx(xla, rel=0.03)
    fine, *coarse = maps((256,) * 4, side)
    decode = functools.partial(mask2former.decode_queries, config)
    every = counted_by_xla(decode, weights, fine, coarse[::-1])
    last = counted_by_xla(lambda *inputs: decode(*inputs)[0], weights, fine, coarse[::-1])
    assert transformer_decoder_flops(config, side) == pytest.approx(last, rel=0.06)
    earlier = 2 * config.decoder_layers * config.queries * places(side)[0] * config.width
    assert every - last == pytest.approx(earlier, rel=0.01)


@pytest.mark.parametrize(
    "switches",
    [{}, dict(query="mask"), dict(sa=False), dict(ca=False), dict(ff=False), dict(conv=False)],
    ids=lambda switches: "-".join(switches) or "paper",
)
def test_resoblend(switches):
    config = ResoBlendConfig.paper(CHANNELS, image_width=512, **switches)
    shapes = floats(1, 144, 512), maps(CHANNELS, 128)
    xla = counted_by_xla(functools.partial(resoblend.blend, config), params(resoblend, config), *shapes)
    assert resoblend_flops(config, 144, 128) == pytest.approx(xla, rel=0.05)


def test_published_sizes():
    """Spec gsva j: SAM-H about 3 TMAC, CLIP-L/14 0.08 TMAC, LLaMA-7B 6.6 GMAC a token."""
    config = GsvaConfig.gsva_7b()
    assert sam_encoder_flops(config.sam) / 2e12 == pytest.approx(3, rel=0.05)
    assert clip_flops(config.clip) / 2e12 == pytest.approx(0.08, rel=0.05)
    assert (llama_flops(config.llama, 1) + head_flops(config.llama, 1)) / 2e9 == pytest.approx(6.6, rel=0.01)
    assert training_flops(config, 1024, 5) > training_flops(config, 1024, 5, cached_features=True) > 2 * 2 * 6.6e12
