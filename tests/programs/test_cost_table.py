"""The costs that the GELLA paper's Table 12 is held against: parts and columns as spec gella h has them."""

import numpy as np
import pytest

from benchmarks import cost_table
from gella_jax.flops import backbone_flops
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.planning.flops import pixel_decoder_flops, transformer_decoder_flops

# GMAC at S: Swin-T, MobileNetV2, Swin-L with windows of 7, pixel decoder, transformer decoder with 100 queries.
SPEC = {
    384: (14.3, 0.8, 111.7, 20.0, 5.6),
    512: (25.5, 1.5, 193.9, 35.5, 8.7),
    800: (60.9, 3.6, 472.3, 86.7, 19.0),
    1024: (98.4, 5.8, 761.7, 142.0, 30.1),
}


@pytest.mark.parametrize("side", SPEC)
def test_parts_of_the_spec(side):
    """To the digit that is written there."""
    backbones = SwinConfig.tiny(), MobileNetConfig.torchvision(), SwinConfig.large(window=7)
    decoders = Mask2FormerConfig.entity()
    found = [backbone_flops(config, side) for config in backbones]
    found += [pixel_decoder_flops(decoders, side), transformer_decoder_flops(decoders, side, every_layer=True)]
    np.testing.assert_allclose(np.array(found) / 2e9, SPEC[side], atol=0.051, rtol=0)


def test_columns_of_the_spec():
    """LLM as twice the multiply-adds, the others as those; XLA's count is above, by what goes over elements."""
    options = cost_table.Options()
    (llm, encoders, _, decoders), lisa = cost_table.gella(options, 384), cost_table.lisa(options)
    found = llm[1], encoders[0], decoders[0], lisa[0][1], lisa[1][0], lisa[3][0]
    np.testing.assert_allclose(found, (11992, 205.3, 25.6, 92488, 3061.6, 37), rtol=0.02)
    np.testing.assert_allclose(found[:5], (11992, 205.3, 25.6, 92488, 3061.6), rtol=0.005)
    for column in (llm, encoders, decoders, *lisa[:2], lisa[3]):
        assert column[0] * 2 == column[1] < column[2] < 1.08 * column[1]


def test_sizes_that_would_give_the_numbers_of_the_paper():
    config = cost_table.GellaConfig.gella_7b().llama
    assert cost_table.tokens_for(config, 11987) == pytest.approx(876.6, abs=0.1)
    assert cost_table.tokens_for(config, 92607 / 21) == pytest.approx(329.4, abs=0.1)
    assert cost_table.fitting(lambda side: 2e9 * side / 100, 4.1) == 416
