"""CLIP's vision tower against transformers', from random weights, and its published size."""

import jax
import numpy as np
import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from grounding_jax.models import clip
from grounding_jax.models.clip import ClipConfig
from grounding_jax.weights import folder
from grounding_jax.weights.tables import clip as clip_weights
from tests.torch_reference import leaves, randomize

FEATURES = 2e-4  # absolute: float32 sums in another order

TOWERS = {
    "openai": dict(image_size=28, patch_size=7, hidden_size=24, intermediate_size=36, num_hidden_layers=3,
                   num_attention_heads=2, hidden_act="quick_gelu"),
    "laion": dict(image_size=20, patch_size=4, hidden_size=30, intermediate_size=20, num_hidden_layers=2,
                  num_attention_heads=5, hidden_act="gelu", layer_norm_eps=1e-3),
}  # fmt: skip


def full_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Published checkpoints have `vision_model.` before every name; newer transformers leave it out in memory."""
    return {f"vision_model.{key.removeprefix('vision_model.')}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize("name", TOWERS)
def test_agrees_with_transformers(name):
    tower = randomize(CLIPVisionModel(CLIPVisionConfig(**TOWERS[name])), seed=1)
    ours = leaves(clip_weights.table(), full_names(tower.state_dict()))
    config = clip_weights.config(ours, tower.config.to_dict(), name)
    images = np.random.default_rng(2).normal(size=(2, config.image_size, config.image_size, 3)).astype(np.float32)
    with torch.no_grad():
        expected = tower(torch.from_numpy(images.transpose(0, 3, 1, 2)), output_hidden_states=True)

    @jax.jit
    def run(params, images):
        return *clip.encode(config, params, images), clip.patch_features(config, params, images, -2)

    pooled, states, features = run(folder.to_params(ours), images)
    np.testing.assert_allclose(pooled, expected.pooler_output, atol=FEATURES)
    assert len(states) == len(expected.hidden_states) == config.layers + 1
    for state, wanted in zip(states, expected.hidden_states, strict=True):
        np.testing.assert_allclose(state, wanted, atol=FEATURES)
    np.testing.assert_allclose(features, expected.hidden_states[-2][:, 1:], atol=FEATURES)


@pytest.mark.parametrize(("image_size", "elements"), [(224, 303_179_776), (336, 303_507_456)])
def test_published_size(image_size, elements):
    config = ClipConfig.vit_l14(image_size)
    params = jax.eval_shape(lambda: clip.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == elements
    with torch.device("meta"):
        tower = CLIPVisionModel(
            CLIPVisionConfig(image_size=image_size, patch_size=14, hidden_size=1024, intermediate_size=4096,
                             num_hidden_layers=24, num_attention_heads=16)
        )  # fmt: skip
    assert sum(parameter.numel() for parameter in tower.parameters()) == elements
    images = jax.ShapeDtypeStruct((2, image_size, image_size, 3), np.float32)
    features = jax.eval_shape(lambda p, i: clip.patch_features(config, p, i, -2), params, images)
    assert features.shape == (2, (image_size // 14) ** 2, 1024)
