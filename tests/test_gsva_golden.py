"""The whole GSVA against the numbers of the official release, module by module (golden/gsva)."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounding_jax.models import clip, llama, sam
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.llava import IMAGE_TOKEN
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.sam.prompt_encoder import dense_positions
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.weights import read_official

FEATURES, MASKS = 2e-4, 1e-3


@pytest.fixture(scope="module")
def config() -> GsvaConfig:
    return GsvaConfig(
        llama=LlamaConfig(424, 48, 112, 2, 4, 4, lora_rank=8),
        clip=ClipConfig(56, 14, 32, 64, 3, 4),
        sam=SamConfig(
            32,
            4,
            4,
            (1, 3),
            image_size=128,
            window=3,
            prompt_width=32,
            decoder_heads=4,
            decoder_hidden=64,
            iou_hidden=32,
        ),
    )


@pytest.fixture(scope="module")
def params(golden) -> dict:
    return read_official(golden / "gsva" / "gsva-tiny-a.bin")


@pytest.fixture(scope="module")
def item(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "gsva" / "eval_grefcoco_val_0.npz"))


def expand(ids: np.ndarray, num_patches: int) -> np.ndarray:
    return np.repeat(ids, np.where(ids == IMAGE_TOKEN, num_patches, 1))[None].astype(np.int32)


def close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def test_clip_and_projector(config, params, item):
    images = jnp.asarray(item["images_clip"]).transpose(0, 2, 3, 1)
    features = clip.patch_features(config.clip, params["clip"], images, config.select_layer)
    close(features, item["out/clip_features"], FEATURES)
    projected = features @ params["projector"]["kernel"] + params["projector"]["bias"]
    close(projected, item["out/projector_out"], FEATURES)


def test_language_model(config, params, item):
    ids = expand(item["input_ids"][0], config.clip.num_patches)
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    patches = jnp.asarray(item["out/projector_out"])
    hidden, aux = model.read(config, params, ids, positions, np.ones_like(ids), patches)
    close(aux["layers"][0], item["out/llama_layer0"], FEATURES)
    close(hidden, item["out/last_hidden_postnorm"], FEATURES)
    logits = llama.logits(params["llama"], hidden)
    close(logits, item["out/logits_first_pass"], FEATURES)
    np.testing.assert_array_equal(logits.argmax(-1), item["out/argmax_first_pass"])


def test_second_pass_and_masks(config, params, item):
    ids = expand(item["out/input_ids_after"][0], config.clip.num_patches)
    positions = np.arange(ids.shape[1], dtype=np.int32)[None]
    patches = jnp.asarray(item["out/projector_out"])
    hidden, _ = model.read(config, params, ids, positions, np.ones_like(ids), patches)
    close(llama.logits(params["llama"], hidden)[:, -40:], item["out/logits_reeval_pass_tail40"], FEATURES)
    (seg,) = np.nonzero(ids[0] == 420)
    image = jnp.asarray(item["out/sam_image_embedding"]).transpose(0, 2, 3, 1)
    prompts = model.make_prompts(config, params, model.gather(hidden, jnp.asarray(seg - 1)[None]))
    masks = model.decode_masks(config, params, prompts, image)
    close(masks[0], item["out/low_res_masks"][:, 0], MASKS)


def test_sam(config, params, item):
    images = jnp.asarray(item["images"]).transpose(0, 2, 3, 1)
    embedding, aux = sam.encode_image(config.sam, params["sam"], images)
    for block in (0, 1, 3):
        close(aux[f"block{block}"], item[f"out/sam_block{block}"], FEATURES)
    close(embedding, item["out/sam_image_embedding"].transpose(0, 2, 3, 1), FEATURES)
    dense = dense_positions(params["sam"]["prompt_encoder"]["gaussian"], config.sam.grid)
    close(dense, item["out/dense_pe"][0].transpose(1, 2, 0), FEATURES)
    text = jnp.asarray(item["out/sparse_embeddings"])
    masks, iou = sam.predict_masks(config.sam, params["sam"], jnp.repeat(embedding, len(text), axis=0), text=text)
    close(masks, item["out/low_res_masks"], MASKS)
    close(iou, item["out/iou_pred"], FEATURES)


def test_no_targets_give_no_masks(config, params):
    prompts, image = jnp.zeros((1, 0, 32)), jnp.zeros((1, config.sam.grid, config.sam.grid, 32))
    assert model.decode_masks(config, params, prompts, image).shape == (1, 0, 32, 32)


def test_sam_encoder_at_full_size(golden):
    """1024 px, patches of 16, windows of 14 with padding, weights by the formula in extra.json."""
    case = json.loads((golden / "gsva" / "extra.json").read_text())["sam_encoder_1024"]
    config = SamConfig(
        case["embed_dim"],
        case["depth"],
        case["heads"],
        tuple(case["global_idx"]),
        window=case["window"],
        prompt_width=case["out_chans"],
        decoder_heads=1,
    )
    from grounding_jax.weights import sam as sam_weights
    from grounding_jax.weights import folder
    from grounding_jax.weights.tensors import from_array

    shapes = jax.eval_shape(lambda: sam.init(config, jax.random.key(0)))
    template = folder.from_params(jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes))
    names = sam_weights.table().to_torch(template, "formula")
    state = {}
    keys = sorted(key for key in names if key.startswith("image_encoder."))
    for i, key in enumerate(key.removeprefix("image_encoder.") for key in keys):
        shape = names[f"image_encoder.{key}"].shape
        n = np.arange(np.prod(shape, dtype=int))
        base = 1.0 if len(shape) == 1 and key.endswith("weight") else 0.0
        if len(shape) == 1:
            scale = 0.1
        elif "rel_pos" in key or "pos_embed" in key:
            scale = 0.3
        else:
            scale = 1.5 / np.sqrt(np.prod(shape[1:]))
        values = base + scale * np.sin(case["k"] * (1 + i) * 0.37 + 0.7 * n * (1 + 0.01 * i))
        state[f"image_encoder.{key}"] = from_array(values.reshape(shape).astype(np.float32))
    others = {key: tensor for key, tensor in names.items() if key not in state}
    params = folder.to_params(sam_weights.table().to_ours({**state, **others}, "formula"))
    c, y, x = np.ogrid[:3, :1024, :1024]
    image = np.sin(x * 0.013 * (c + 1) + case["k"]) * np.cos(y * 0.007 * (c + 2))
    image = image.astype(np.float32).transpose(1, 2, 0)[None]
    embedding = np.asarray(jax.jit(lambda p, i: sam.encode_image(config, p, i)[0])(params, image))
    expected = np.load(golden / "gsva" / "sam_encoder_1024.npz")["out_stride2"]
    close(embedding.transpose(0, 3, 1, 2)[:, :, ::2, ::2], expected, FEATURES)
    assert dataclasses.asdict(config)["window"] == 14
