"""Counted FLOPs against XLA's own count, on sizes where repeated layers are one, and against numbers of the spec."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from grounding_jax.models import clip, llama, sam
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.sam import SamConfig
from gsva_jax.config import GsvaConfig
from gsva_jax.flops import clip_flops, head_flops, llama_flops, mask_decoder_flops, sam_encoder_flops, training_flops


def counted_by_xla(function, *shapes) -> float:
    return jax.jit(function).lower(*shapes).cost_analysis()["flops"]


def test_llama():
    """XLA counts the body of a scan once, and softmax, norms and rotations too: those are a few percent here."""
    config = LlamaConfig(vocab_size=640, width=256, hidden=704, layers=1, heads=4, kv_heads=2)
    params = jax.eval_shape(lambda key: llama.init(config, key), jax.random.key(0))
    x, slots = jax.ShapeDtypeStruct((1, 96, 256), jnp.float32), jax.ShapeDtypeStruct((1, 96), jnp.int32)

    def run(params, x, positions):
        hidden, _ = llama.decode(config, params, x, positions, positions)
        return llama.logits(config, params, hidden)

    counted = llama_flops(config, 96) + head_flops(config, 96)
    assert counted == pytest.approx(counted_by_xla(run, params, x, slots), rel=0.06)


def test_clip():
    config = ClipConfig(image_size=96, patch_size=8, width=256, hidden=1024, layers=1, heads=4)
    params = jax.eval_shape(lambda key: clip.init(config, key), jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
    xla = counted_by_xla(lambda params, images: clip.encode(config, params, images)[1], params, images)
    assert clip_flops(config) == pytest.approx(xla, rel=0.06)


def test_sam():
    config = dataclasses.replace(
        SamConfig.vit_b(), width=192, layers=2, heads=4, global_blocks=(1,), image_size=256, window=6, prompt_width=256
    )
    params = jax.eval_shape(lambda key: sam.init(config, key), jax.random.key(0))
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    xla = counted_by_xla(lambda params, images: sam.encode_image(config, params, images)[0], params, images)
    assert sam_encoder_flops(config) == pytest.approx(xla, rel=0.08)
    image, text = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 16, 16, 256), (3, 1, 256)))
    xla = counted_by_xla(lambda p, image, text: sam.predict_masks(config, p, image, text=text)[0], params, image, text)
    assert 3 * mask_decoder_flops(config) == pytest.approx(xla, rel=0.1)


def test_published_sizes():
    """Spec gsva j: SAM-H about 3 TMAC, CLIP-L/14 0.08 TMAC, LLaMA-7B 6.6 GMAC a token."""
    config = GsvaConfig.gsva_7b()
    assert sam_encoder_flops(config.sam) / 2e12 == pytest.approx(3, rel=0.05)
    assert clip_flops(config.clip) / 2e12 == pytest.approx(0.08, rel=0.05)
    assert (llama_flops(config.llama, 1) + head_flops(config.llama, 1)) / 2e9 == pytest.approx(6.6, rel=0.01)
    assert training_flops(config, 1024, 5) > training_flops(config, 1024, 5, cached_features=True) > 2 * 2 * 6.6e12
