"""The whole GSVA against the numbers of the official release, module by module (golden/gsva)."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grounding_jax.models import clip, llama, llava, sam
from grounding_jax.models.clip import ClipConfig
from grounding_jax.models.llama import LlamaConfig
from grounding_jax.models.llava import IMAGE_TOKEN
from grounding_jax.models.sam import SamConfig
from grounding_jax.models.sam.prompt_encoder import dense_positions
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import sam as sam_weights
from grounding_jax.weights.tensors import from_array
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.weights import official_table

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
    path = golden / "gsva" / "gsva-tiny-a.bin"
    return folder.to_params(official_table(lora=True).to_ours(open_weights(path), str(path)))


@pytest.fixture(scope="module")
def item(golden) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "gsva" / "eval_grefcoco_val_0.npz"))


@pytest.fixture(scope="module")
def read(config, params, item):
    """The language model over one row of ids before expansion: hidden states, those of all layers, logits."""

    @jax.jit
    def run(params, ids, positions, patches):
        hidden, aux = llava.decode(config.llama, params["llama"], ids, positions, jnp.ones_like(ids), patches)
        return hidden, aux["layers"], llama.logits(config.llama, params["llama"], hidden)

    def expanded(ids: np.ndarray):
        ids = expand(ids, config.clip.num_patches)
        return run(params, ids, np.arange(ids.shape[1], dtype=np.int32)[None], item["out/projector_out"])

    return expanded


@pytest.fixture(scope="module")
def decode_masks(config, params):
    """Mask logits for prompts ``[1, M, C]`` on an image embedding ``[1, h, w, C]``."""
    return functools.partial(jax.jit(functools.partial(model.decode_masks, config)), params)


def expand(ids: np.ndarray, num_patches: int) -> np.ndarray:
    return np.repeat(ids, np.where(ids == IMAGE_TOKEN, num_patches, 1))[None].astype(np.int32)


def assert_close(actual, expected, tolerance):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=tolerance)


def test_clip_and_projector(config, params, item):
    images = item["images_clip"].transpose(0, 2, 3, 1)
    encode = jax.jit(lambda params, images: clip.patch_features(config.clip, params, images, config.select_layer))
    features = encode(params["clip"], images)
    assert_close(features, item["out/clip_features"], FEATURES)
    projected = features @ params["projector"]["kernel"] + params["projector"]["bias"]
    assert_close(projected, item["out/projector_out"], FEATURES)


def test_language_model(read, item):
    hidden, layers, logits = read(item["input_ids"][0])
    assert_close(layers[0], item["out/llama_layer0"], FEATURES)
    assert_close(hidden, item["out/last_hidden_postnorm"], FEATURES)
    assert_close(logits, item["out/logits_first_pass"], FEATURES)
    np.testing.assert_array_equal(logits.argmax(-1), item["out/argmax_first_pass"])


def test_second_pass_and_masks(config, params, item, read, decode_masks):
    ids = item["out/input_ids_after"][0]
    hidden, _, logits = read(ids)
    assert_close(logits[:, -40:], item["out/logits_reeval_pass_tail40"], FEATURES)
    (seg,) = np.nonzero(expand(ids, config.clip.num_patches)[0] == 420)
    image = item["out/sam_image_embedding"].transpose(0, 2, 3, 1)
    prompts = model.make_prompts(config, params, model.gather(hidden, seg[None] - 1))
    assert_close(decode_masks(prompts, image)[0], item["out/low_res_masks"][:, 0], MASKS)


def test_sam(config, params, item):
    text = item["out/sparse_embeddings"]

    @jax.jit
    def run(params, images, text):
        embedding, blocks = sam.encode_image(config.sam, params, images)
        masks, iou = sam.predict_masks(config.sam, params, jnp.repeat(embedding, len(text), axis=0), text=text)
        return embedding, blocks, masks, iou

    embedding, blocks, masks, iou = run(params["sam"], item["images"].transpose(0, 2, 3, 1), text)
    for block in (0, 1, 3):
        assert_close(blocks[f"block{block}"], item[f"out/sam_block{block}"], FEATURES)
    assert_close(embedding, item["out/sam_image_embedding"].transpose(0, 2, 3, 1), FEATURES)
    dense = dense_positions(params["sam"]["prompt_encoder"]["gaussian"], config.sam.grid)
    assert_close(dense, item["out/dense_pe"][0].transpose(1, 2, 0), FEATURES)
    assert_close(masks, item["out/low_res_masks"], MASKS)
    assert_close(iou, item["out/iou_pred"], FEATURES)


def test_no_targets_give_no_masks(config, decode_masks):
    prompts, image = jnp.zeros((1, 0, 32)), jnp.zeros((1, config.sam.grid, config.sam.grid, 32))
    assert decode_masks(prompts, image).shape == (1, 0, 32, 32)


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
    assert config.window == 14
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
    assert_close(embedding.transpose(0, 3, 1, 2)[:, :, ::2, ::2], expected, FEATURES)


def test_published_size():
    """All elements of the release's file (spec gsva b.1), and what GSVA-7B makes of a batch."""
    config = GsvaConfig.gsva_7b()
    params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 7_708_950_064
    B, T, M = 2, 300, 3
    shapes = {
        **{name: ((B, T), np.int32) for name in ("ids", "positions", "branch")},
        "seg_positions": ((B, M), np.int32),
        "target_rejected": ((B, M), bool),
        "sam_images": ((B, 1024, 1024, 3), np.uint8),
        "resized": ((B, 2), np.int32),
        "clip_images": ((B, 224, 224, 3), np.uint8),
    }
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    outputs = jax.eval_shape(functools.partial(model.forward, config), params, batch)
    assert {name: array.shape for name, array in outputs.items()} == {
        "patches": (B, config.clip.num_patches, 4096),
        "hidden": (B, T, 4096),
        "logits": (B, T, 32005),
        "prompts": (B, M, 256),
        "masks": (B, M, 256, 256),
    }
