"""How GELLA is wired (spec gella l), with random weights, and its published sizes by shape."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gella_jax import model
from gella_jax.config import GellaConfig
from gella_jax.resoblend import ResoBlendConfig
from grounding_jax.models.llava import IMAGE_TOKEN
from grounding_jax.weights import folder
from tests.small_gella import small_config, small_params, small_tokenizer

CONFIG = small_config()
SEG = small_tokenizer().seg[0]


def make_batch(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    ids = np.array([[1, *[IMAGE_TOKEN] * 4, 7, 8, SEG, 9, SEG, 10, 2]] * 2, np.int32)
    T = ids.shape[1]
    return {
        "ids": ids,
        "positions": np.tile(np.arange(T, dtype=np.int32), (2, 1)),
        "branch": np.ones((2, T), np.int32),
        "seg_positions": np.array([[6, 8, -1]] * 2, np.int32),
        "clip_images": rng.integers(0, 256, (2, 28, 28, 3), np.uint8),
        "clip_resized": np.full((2, 2), 28, np.int32),
        "colormaps": rng.integers(0, 256, (2, 64, 64, 3), np.uint8),
    }


@pytest.fixture(scope="module")
def run():
    step = jax.jit(lambda batch: model.forward(CONFIG, small_params(), batch))
    return lambda **changes: jax.device_get(step({**make_batch(), **changes}))


def test_shapes(run):
    outputs = run()
    assert outputs["logits"].shape == (2, 12, CONFIG.llama.vocab_size)
    assert outputs["association"].shape == (2, 3, 6)
    last, earlier = outputs["entities"]
    assert last.mask_logits.shape == (2, 6, 16, 16) and len(earlier) == CONFIG.mask2former.decoder_layers


def test_the_text_does_not_see_the_masks(run):
    other = run(colormaps=make_batch(1)["colormaps"])
    np.testing.assert_array_equal(run()["logits"], other["logits"])
    assert np.abs(run()["entities"].last.mask_logits - other["entities"].last.mask_logits).max() > 1e-3


def test_the_masks_do_not_see_the_text(run):
    ids = make_batch()["ids"].copy()
    ids[:, 5] = 20
    other = run(ids=ids)
    jax.tree.map(np.testing.assert_array_equal, run()["entities"], other["entities"])
    assert np.abs(run()["association"] - other["association"]).max() > 1e-4


def test_both_see_the_picture(run):
    other = run(clip_images=make_batch(1)["clip_images"])
    assert np.abs(run()["logits"] - other["logits"]).max() > 1e-4
    assert np.abs(run()["entities"].last.mask_logits - other["entities"].last.mask_logits).max() > 1e-4


def test_the_state_of_a_noun():
    """That of the [SEG] itself, or the one before, as the config says."""
    hidden = jnp.arange(24.0).reshape(1, 12, 2)
    positions = jnp.array([[6, 8, -1]])
    predicting = dataclasses.replace(CONFIG, seg_state="predicting")
    np.testing.assert_array_equal(model.noun_states(CONFIG, hidden, positions)[0, :2], hidden[0, [7, 9]])
    np.testing.assert_array_equal(model.noun_states(predicting, hidden, positions)[0, :2], hidden[0, [6, 8]])


@pytest.mark.parametrize(
    "damaged, message",
    [
        ({"side": 10**9}, "side is 1000000000, should be at most 8192"),
        ({"vision_layer": 99}, "vision_layer is 99, but CLIP has"),
        ({"blend": {**dataclasses.asdict(CONFIG.blend), "heads": 7}}, "blend: 7 heads don't divide the width"),
    ],
)
def test_a_config_that_can_be_no_model(tmp_path, damaged, message):
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(CONFIG), **damaged}))
    with pytest.raises(ValueError, match=message):
        folder.read_config(GellaConfig, tmp_path)


@pytest.mark.parametrize("backbone", ["swin_t", "swin_l", "mobilenet_v2"])
@pytest.mark.parametrize("size", ["gella_7b", "gella_13b"])
def test_published_sizes(tmp_path, size, backbone):
    """By shape: a step of the whole model at 800 pixels, 576 patches, and the number of parameters of each part."""
    config = getattr(GellaConfig, size)(backbone)
    (tmp_path / "config.json").write_text(config.to_json())
    assert folder.read_config(GellaConfig, tmp_path) == config
    shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    count = {name: sum(leaf.size for leaf in jax.tree.leaves(part)) for name, part in shapes.items()}
    # LLaMA's 6,738,415,616 and 13,015,864,320, and a row of embedding and head for [SEG].
    assert count["llama"] == {"gella_7b": 6_738_415_616 + 2 * 4096, "gella_13b": 13_015_864_320 + 2 * 5120}[size]
    swins = {"swin_t": 27_520_698, "swin_l": 195_201_204}
    assert count["backbone"] == swins.get(backbone, count["backbone"])
    T = 600
    batch = {name: jax.ShapeDtypeStruct((1, T), np.int32) for name in ("ids", "positions", "branch")}
    batch |= {
        "seg_positions": jax.ShapeDtypeStruct((1, 21), np.int32),
        "clip_images": jax.ShapeDtypeStruct((1, 336, 336, 3), np.uint8),
        "clip_resized": jax.ShapeDtypeStruct((1, 2), np.int32),
        "colormaps": jax.ShapeDtypeStruct((1, 800, 800, 3), np.uint8),
    }
    outputs = jax.eval_shape(lambda params, batch: model.forward(config, params, batch), shapes, batch)
    assert outputs["association"].shape == (1, 21, 100)
    assert outputs["entities"].last.mask_logits.shape == (1, 100, 200, 200)


def test_parts_must_fit():
    with pytest.raises(ValueError, match="ResoBlend gives maps of .* but Mask2Former takes"):
        dataclasses.replace(CONFIG, blend=ResoBlendConfig.skip((8, 16, 32, 64)))
    with pytest.raises(ValueError, match="seg_state is 'after', should be at or predicting"):
        dataclasses.replace(CONFIG, seg_state="after")
