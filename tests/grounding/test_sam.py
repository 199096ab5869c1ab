"""Segment Anything against transformers', from random weights: encoder, every prompt, masks, published sizes."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from grounding_jax.models import sam
from grounding_jax.models.attention import attention
from grounding_jax.models.sam import SamConfig, image_encoder
from grounding_jax.models.sam.prompt_encoder import PromptEncoder
from grounding_jax.weights import folder
from grounding_jax.weights.tables import sam as sam_weights
from tests.torch_reference import leaves, randomize

FEATURES = 2e-4  # absolute: float32 sums in another order
M, C, IOU_LAYERS = 3, 16, 4

# transformers' names for the layers of the release's .pth files, in the order they are replaced.
RELEASE_NAMES = (
    (r"^shared_image_embedding\.", "prompt_encoder.pe_layer."),
    (r"positional_embedding$", "positional_encoding_gaussian_matrix"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.", "image_encoder."),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"\.point_embed\.", ".point_embeddings."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"\.layer_norm(\d)", r".norm\1"),
    (r"(mlps\.\d+|head)\.layers\.(\d+)", lambda found: f"{found[1]}.layers.{int(found[2]) + 1}"),
    (r"\.proj_in\.", ".layers.0."),
    (r"(mlps\.\d+)\.proj_out", r"\1.layers.2"),
    (r"head\.proj_out", f"head.layers.{IOU_LAYERS - 1}"),
)

# Layers whose output is normed at once: made so small that a wrong eps of that norm shows.
BEFORE_A_NORM = ("vision_encoder.pos_embed", "patch_embed", "neck.conv", "mask_embed.conv1", "mask_embed.conv2",
                 "transformer.layers.0.self_attn.out_proj", "upscale_conv1")  # fmt: skip


class Pair(NamedTuple):
    """The same weights twice."""

    theirs: transformers.SamModel
    config: SamConfig
    params: dict


def release_state(model: transformers.SamModel) -> dict[str, torch.Tensor]:
    """The state dict under the names of the release; the shared positional embedding is listed once."""
    state = {}
    for key, tensor in model.state_dict().items():
        if key.startswith("prompt_encoder.shared_embedding."):
            continue
        for pattern, name in RELEASE_NAMES:
            key = re.sub(pattern, name, key)
        state[key] = tensor
    return state


def make_pair(grid: int, window: int, global_blocks: list[int], layers: int) -> Pair:
    """A small SAM with patches of two pixels; three blocks in the decoder, four layers in the head of qualities."""
    image = dict(image_size=2 * grid, patch_size=2)
    vision = dict(
        hidden_size=12,
        num_hidden_layers=layers,
        num_attention_heads=2,
        output_channels=C,
        mlp_dim=20,
        window_size=window,
        global_attn_indexes=global_blocks,
        num_pos_feats=C // 2,
        **image,
    )
    prompt = dict(hidden_size=C, mask_input_channels=8, **image)
    # The release leaves PyTorch's eps in the two-way transformer, whatever the published config.json says.
    decoder = dict(hidden_size=C, mlp_dim=24, num_hidden_layers=3, num_attention_heads=2, layer_norm_eps=1e-5,
                   iou_head_depth=IOU_LAYERS, iou_head_hidden_dim=20)  # fmt: skip
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    theirs = randomize(transformers.SamModel(config), seed=grid)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if any(part in name for part in BEFORE_A_NORM):
                parameter *= 1e-3
    ours = leaves(sam_weights.table(), release_state(theirs))
    return Pair(theirs, sam_weights.config(ours, decoder_heads=2), folder.to_params(ours))


@pytest.fixture(scope="module")
def pair() -> Pair:
    return make_pair(grid=6, window=4, global_blocks=[1], layers=2)


@pytest.fixture(scope="module")
def prompts(pair) -> dict[str, np.ndarray]:
    """For each of M pictures two points, one box, one mask and two text tokens."""
    rng = np.random.default_rng(1)
    side, low = pair.config.image_size, pair.config.low_res
    corners = np.sort(rng.uniform(0, side, (M, 2, 2)), axis=1)
    return {
        "points": rng.uniform(0, side, (M, 2, 2)).astype(np.float32),
        "labels": np.array([[1, 0], [0, -1], [-1, 1]], np.int32),
        "boxes": corners.reshape(M, 4).astype(np.float32),
        "masks": rng.normal(0, 3, (M, low, low)).astype(np.float32),
        "text": rng.normal(size=(M, 2, C)).astype(np.float32),
    }


KINDS = {
    "points": ("points", "labels"),
    "boxes": ("boxes",),
    "points and boxes": ("points", "labels", "boxes"),
    "masks": ("masks",),
    "everything": ("points", "labels", "boxes", "masks"),
}


def chosen(prompts: dict, kind: str) -> dict:
    return {name: prompts[name] for name in KINDS[kind]}


def for_torch(points=None, labels=None, boxes=None, masks=None) -> dict[str, torch.Tensor | None]:
    """Prompts as transformers wants them: with an axis for several prompts of one picture."""
    prompts = dict(input_points=points, input_labels=labels, input_boxes=boxes, input_masks=masks)
    return {name: None if array is None else torch.from_numpy(array[:, None]) for name, array in prompts.items()}


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.fixture(scope="module")
def embedding() -> np.ndarray:
    """Image embeddings of M pictures."""
    return np.random.default_rng(2).normal(size=(M, 6, 6, C)).astype(np.float32)


@pytest.mark.parametrize(
    ("grid", "window", "global_blocks", "layers"),
    [(6, 3, [1], 3), (7, 4, [0, 2], 3), (32, 5, [1], 2)],
    ids=["whole windows", "padded windows", "blocks of queries"],
)
def test_image_encoder_agrees_with_transformers(grid, window, global_blocks, layers):
    theirs, config, params = make_pair(grid, window, global_blocks, layers)
    assert (config.window, config.global_blocks) == (window, tuple(global_blocks))
    side = config.image_size
    images = np.random.default_rng(3).normal(size=(2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs.vision_encoder(torch.from_numpy(images.transpose(0, 3, 1, 2)), output_hidden_states=True)
    found, blocks = jax.jit(lambda p, i: sam.encode_image(config, p, i))(params, images)
    for i, wanted in enumerate(expected.hidden_states[1:]):
        np.testing.assert_allclose(blocks[f"block{i}"], wanted, atol=FEATURES)
    np.testing.assert_allclose(found, channels_last(expected.last_hidden_state), atol=FEATURES)


def test_prompts_agree_with_transformers(pair, prompts):
    @jax.jit
    def encode(params, prompts):
        encoder = PromptEncoder(pair.config)
        return {kind: encoder.apply({"params": params}, **chosen(prompts, kind)) for kind in KINDS}

    for kind, (sparse, dense, positions) in encode(pair.params["prompt_encoder"], prompts).items():
        with torch.no_grad():
            wanted_sparse, wanted_dense = pair.theirs.prompt_encoder(**for_torch(**chosen(prompts, kind)))
            wanted_positions = pair.theirs.get_image_wide_positional_embeddings()
        if wanted_sparse is None:
            assert sparse.shape == (M, 0, C)
        else:
            np.testing.assert_allclose(sparse, wanted_sparse[:, 0], atol=FEATURES, err_msg=kind)
        wanted_dense = np.broadcast_to(channels_last(wanted_dense), (M, 6, 6, C))
        np.testing.assert_allclose(np.broadcast_to(dense, wanted_dense.shape), wanted_dense, atol=FEATURES)
        np.testing.assert_allclose(positions, channels_last(wanted_positions)[0], atol=FEATURES)


def test_masks_and_their_quality_agree_with_transformers(pair, prompts, embedding):
    """Three masks from all prompts that transformers knows, one from text, which it knows only behind its encoder."""
    theirs, rest = pair.theirs, chosen(prompts, "everything")
    image = torch.from_numpy(embedding.transpose(0, 3, 1, 2))
    with torch.no_grad():
        three = theirs(image_embeddings=image, multimask_output=True, **for_torch(**rest))
        one = theirs.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=theirs.get_image_wide_positional_embeddings().repeat(M, 1, 1, 1),
            sparse_prompt_embeddings=torch.from_numpy(prompts["text"][:, None]),
            dense_prompt_embeddings=theirs.prompt_encoder.no_mask_embed.weight.reshape(1, C, 1, 1),
            multimask_output=False,
        )

    @jax.jit
    def predict(params, embedding, rest, text):
        return [
            sam.predict_masks(pair.config, params, embedding, multimask=True, **rest),
            sam.predict_masks(pair.config, params, embedding, text=text),
        ]

    found, expected = (
        predict(pair.params, embedding, rest, prompts["text"]),
        [(three.pred_masks, three.iou_scores), one],
    )
    for masks, (logits, iou), (wanted_logits, wanted_iou) in zip((3, 1), found, expected, strict=True):
        assert logits.shape == (M, masks, pair.config.low_res, pair.config.low_res)
        np.testing.assert_allclose(logits, wanted_logits[:, 0], atol=FEATURES)
        np.testing.assert_allclose(iou, wanted_iou[:, 0], atol=FEATURES)


def test_text_comes_last_and_needs_no_empty_point(pair, prompts):
    encoder, params = PromptEncoder(pair.config), {"params": pair.params["prompt_encoder"]}
    sparse, dense, _ = encoder.apply(params, text=prompts["text"])
    np.testing.assert_array_equal(sparse, prompts["text"])
    np.testing.assert_array_equal(dense, np.broadcast_to(pair.params["prompt_encoder"]["no_mask"], (1, 6, 6, C)))
    with_box, _, _ = encoder.apply(params, text=prompts["text"], boxes=prompts["boxes"])
    np.testing.assert_array_equal(with_box[:, 2:], prompts["text"])


def test_pictures_without_prompts_and_prompts_without_pictures(pair, embedding):
    """Neither is an error: one mask a picture, and none."""
    low = pair.config.low_res
    shapes = {"text": (0, 1, C), "points": (0, 2, 2), "boxes": (0, 4), "masks": (0, low, low)}
    nothing = {name: jnp.zeros(shape) for name, shape in shapes.items()} | {"labels": jnp.zeros((0, 2), jnp.int32)}

    @jax.jit
    def predict(params, embedding, nothing):
        return [
            sam.predict_masks(pair.config, params, embedding),
            sam.predict_masks(pair.config, params, embedding[:0], **nothing),
        ]

    with torch.no_grad():
        theirs = pair.theirs(image_embeddings=torch.from_numpy(embedding.transpose(0, 3, 1, 2)), multimask_output=False)
    (logits, iou), (no_logits, no_iou) = predict(pair.params, embedding, nothing)
    np.testing.assert_allclose(logits, theirs.pred_masks[:, 0], atol=FEATURES)
    np.testing.assert_allclose(iou, theirs.iou_scores[:, 0], atol=FEATURES)
    assert no_logits.shape == (0, 1, low, low)
    assert no_iou.shape == (0, 1)


@pytest.mark.parametrize("grid", [32, 23])
def test_blocks_of_queries_equal_one_block(grid):
    """Against the attention under the bias of all pairs, which is written out here."""
    B, N, K = 2, 2, 3
    rng = np.random.default_rng(4)
    q, k, v = rng.normal(size=(3, B, grid * grid, N, K)).astype(np.float32)
    rel_pos_h, rel_pos_w = rng.normal(size=(2, 2 * grid - 1, K)).astype(np.float32)
    row, column = np.divmod(np.arange(grid * grid), grid)
    distance_h, distance_w = row[:, None] - row + grid - 1, column[:, None] - column + grid - 1
    bias = np.einsum("BTNK,TSK->BNTS", q, rel_pos_h[distance_h] + rel_pos_w[distance_w])
    expected = jax.jit(attention)(q, k, v, bias=bias)
    found = jax.jit(image_encoder.attend, static_argnums=5)(q, k, v, rel_pos_h, rel_pos_w, grid)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("size", "elements"), [("b", 93_735_728), ("l", 312_343_088), ("h", 641_090_864)])
def test_published_size(size, elements):
    """Parameters of the release and the 256 frozen frequencies of its positional encoding."""
    config = getattr(SamConfig, f"vit_{size}")()
    params = jax.eval_shape(lambda: sam.init(config, jax.random.key(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == elements

    def run(params, images, points, labels):
        embedding, _ = sam.encode_image(config, params, images)
        return embedding, sam.predict_masks(config, params, embedding, points=points, labels=labels, multimask=True)

    images, points = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((2, 1024, 1024, 3), (2, 5, 2)))
    labels = jax.ShapeDtypeStruct((2, 5), np.int32)
    embedding, (logits, iou) = jax.eval_shape(run, params, images, points, labels)
    assert embedding.shape == (2, 64, 64, 256)
    assert logits.shape == (2, 3, 256, 256)
    assert iou.shape == (2, 3)
