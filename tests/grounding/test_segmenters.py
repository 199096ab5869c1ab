"""Built-in sources of masks: from published files to proposals, a Mask2Former against transformers'."""

import copy
import functools
import json
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from grounding_jax import segmenters
from grounding_jax.data.picture_resize import resized_size
from grounding_jax.models import sam
from grounding_jax.models.mask_resize import resize_masks
from grounding_jax.models.normalize import SAM_MEAN, SAM_STD
from grounding_jax.models.sam import SamConfig
from grounding_jax.segmenters import mask2former as mask2former_masks
from grounding_jax.segmenters.mask2former import non_overlapping, overlapping
from grounding_jax.segmenters.sam import PointGrid, segment_everything
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import expected_shapes
from grounding_jax.weights.layouts import open_layout
from grounding_jax.weights.tables import mask2former
from grounding_jax.weights.tables import sam as sam_weights
from grounding_jax.weights.tensors import CheckpointError, from_array
from tests.torch_reference import randomize

SHORTEST, LONGEST = 48, 80  # instead of detectron2's, for the tests of whole models
SIZES = {"like a photograph": (37, 61), "smaller than a patch": (5, 7), "too long": (45, 101)}


@pytest.fixture
def small_inputs(monkeypatch):
    monkeypatch.setattr(mask2former_masks, "SHORTEST", SHORTEST)
    monkeypatch.setattr(mask2former_masks, "LONGEST", LONGEST)


@pytest.fixture(scope="module")
def theirs() -> transformers.Mask2FormerForUniversalSegmentation:
    """A small Mask2Former of one class, whose Swin shifts its windows."""
    backbone = transformers.SwinConfig(
        embed_dim=8, depths=[2, 1, 1, 1], num_heads=[1, 2, 2, 4], window_size=3, drop_path_rate=0.0,
        out_features=[f"stage{i}" for i in (1, 2, 3, 4)],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=12,
        encoder_layers=1, encoder_feedforward_dim=24, decoder_layers=4, dim_feedforward=24, num_labels=1,
    )  # fmt: skip
    model = randomize(transformers.Mask2FormerForUniversalSegmentation(config), seed=1)
    with torch.no_grad():
        model.model.pixel_level_module.decoder.mask_projection.weight *= 0.3  # logits of masks of a usual size
    return model


@pytest.fixture(scope="module")
def checkpoints(theirs, tmp_path_factory) -> dict[str, str]:
    """The same weights as detectron2 writes them, as its trainer does, and as transformers does."""
    out = tmp_path_factory.mktemp("mask2former")
    theirs.save_pretrained(out / "folder")
    ours = mask2former.read(*open_layout(out / "folder", ("Mask2Former-hf",)), out / "folder")[2]
    tensors = mask2former.original_with_swin().to_torch(ours, "ours")
    state = {key: np.array(tensor.read()) for key, tensor in tensors.items()}
    (out / "final.pkl").write_bytes(pickle.dumps({"model": state, "__author__": "x", "matching_heuristics": True}))
    trained = {key: torch.from_numpy(array) for key, array in state.items()}
    torch.save({"model": trained, "iteration": 4}, out / "final.pth")
    return {kind: str(out / kind) for kind in ("final.pkl", "final.pth", "folder")}


def draw_image(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(size).integers(0, 256, (*size, 3), np.uint8)


def detectron2_size(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """What ResizeShortestEdge makes of (height, width), written out."""
    scale = shortest / min(size)
    sides = [side * scale for side in size]
    if max(sides) > longest:
        sides = [side * longest / max(sides) for side in sides]
    height, width = (int(side + 0.5) for side in sides)
    return height, width


def reference_logits(theirs, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits of classes [Q, 2], and of masks at the size of the picture [Q, H, W], all of it with torch."""
    height, width = detectron2_size(image.shape[:2], SHORTEST, LONGEST)
    resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR), np.float32)
    pixels = torch.from_numpy((resized - np.float32(SAM_MEAN)) / np.float32(SAM_STD)).permute(2, 0, 1)
    pixels = torch.nn.functional.pad(pixels, (0, -width % 32, 0, -height % 32))[None]
    with torch.no_grad():
        said = theirs(pixel_values=pixels)

    def resize(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return torch.nn.functional.interpolate(masks, size, mode="bilinear", align_corners=False)

    masks = resize(said.masks_queries_logits, pixels.shape[2:])[..., :height, :width]
    return said.class_queries_logits[0].numpy(), resize(masks, image.shape[:2])[0].numpy()


@pytest.fixture(scope="module")
def propose(checkpoints) -> segmenters.Segmenter:
    return segmenters.load_segmenter(checkpoints["final.pth"])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_mask2former_agrees_with_transformers(theirs, propose, small_inputs, monkeypatch, size):
    """Before the masks are made disjoint, and after."""
    image = draw_image(size)
    wanted_classes, wanted_masks = reference_logits(theirs, image)
    wanted = non_overlapping(wanted_classes, wanted_masks, (np.eye(size[0]), np.eye(size[1])))
    [found] = propose([image])
    assert found.entities.masks.shape[1:] == size
    assert found.entities.ids == wanted.entities.ids and len(found.entities.ids) > 1
    assert found.left_out == wanted.left_out
    assert np.mean(found.entities.masks != wanted.entities.masks) < 1e-3
    np.testing.assert_allclose(found.entities.scores, wanted.entities.scores, atol=1e-3)

    monkeypatch.setattr(mask2former_masks, "non_overlapping", lambda *logits: logits)
    [(classes, masks, matrices)] = propose([image])
    np.testing.assert_allclose(classes, wanted_classes, atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(resize_masks(masks, *matrices), wanted_masks, atol=5e-4)


@pytest.mark.parametrize("kind", ["final.pkl", "folder"])
def test_every_layout_is_the_same_model(checkpoints, propose, kind):
    *sizes, params = segmenters.load_segmenter(checkpoints[kind]).args
    assert tuple(sizes) == propose.args[:2]
    jax.tree.map(np.testing.assert_array_equal, params, propose.args[2])


def test_heads_are_those_of_the_public_config(checkpoints, propose, tmp_path):
    """Only transformers tells them; the published models have 8, as shapes don't say."""
    assert propose.args[1].heads == 8
    shutil.copytree(checkpoints["folder"], tmp_path / "x")
    facts = json.loads((tmp_path / "x" / "config.json").read_text())
    (tmp_path / "x" / "config.json").write_text(json.dumps(facts | {"num_attention_heads": 4}))
    assert segmenters.load_segmenter(tmp_path / "x").args[1].heads == 4


@pytest.mark.parametrize(
    ("shortest", "longest"), [(mask2former_masks.SHORTEST, mask2former_masks.LONGEST), (SHORTEST, LONGEST)]
)
def test_sizes_are_those_of_detectron2(monkeypatch, shortest, longest):
    """Of pictures that are very small and very large, square, and long; only the side of 0 is made 1."""
    monkeypatch.setattr(mask2former_masks, "SHORTEST", shortest)
    monkeypatch.setattr(mask2former_masks, "LONGEST", longest)
    rng = np.random.default_rng(0)
    sides = np.concatenate([rng.integers(1, limit, (700, 2)) for limit in (50, 1000, 5000)])
    for size in [(1, 9000), (640, 640), (800, 1333), (1333, 800), (600, 1000), *sides.tolist()]:
        wanted = tuple(max(side, 1) for side in detectron2_size(size, shortest, longest))
        assert resized_size(size, mask2former_masks.resized_longest(size)) == wanted, size


@pytest.mark.parametrize(
    ("size", "resized", "padded"), [((30, 100), (400, 1333), (416, 1344)), ((20, 19), (842, 800), (864, 800))]
)
def test_a_picture_is_padded_to_whole_strides(size, resized, padded):
    found, inside = mask2former_masks.mask2former_input(np.full((*size, 3), 255, np.uint8))
    assert (inside, found.shape, found.dtype) == (resized, (*padded, 3), np.uint8)
    assert (found[: inside[0], : inside[1]] == 255).all()
    assert found.sum(dtype=np.int64) == 255 * 3 * resized[0] * resized[1]


def test_the_backbone_computes_in_the_given_type_and_the_decoders_in_float32(checkpoints, monkeypatch):
    loaded = segmenters.load_segmenter(checkpoints["final.pkl"], dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.args[2])} == {jnp.dtype(jnp.bfloat16)}
    pyramid, given = mask2former_masks.swin.pyramid, []
    monkeypatch.setattr(mask2former_masks.swin, "pyramid", lambda c, p, x: given.append(x.dtype) or pyramid(c, p, x))
    inputs = jax.ShapeDtypeStruct((1, 32, 32, 3), np.uint8), jax.ShapeDtypeStruct((1, 2), np.int32)
    run = functools.partial(mask2former_masks._predict, *loaded.args[:2], dtype=loaded.keywords["dtype"])
    logits = jax.eval_shape(lambda *arrays: run(*arrays), loaded.args[2], *inputs)
    assert given == [jnp.bfloat16]
    assert [(x.shape, x.dtype) for x in logits] == [((1, 12, 2), np.float32), ((1, 12, 8, 8), np.float32)]


def test_a_sam_of_any_size_proposes_masks(tmp_path):
    """The SAM that was written to the file; a coarse grid, and nothing is too poor for it."""
    config = SamConfig(
        width=12, layers=2, heads=2, global_blocks=(1,), image_size=32, patch_size=8, hidden=20, window=3,
        prompt_width=16, mask_channels=4, decoder_layers=1, decoder_hidden=16, iou_hidden=12,
    )  # fmt: skip
    rng, shapes = np.random.default_rng(0), expected_shapes(sam.init, config)
    written = {path: from_array(rng.normal(0, 0.3, shape).astype(np.float32)) for path, shape in shapes.items()}
    tensors = sam_weights.table().to_torch(written, "ours")
    torch.save({key: torch.from_numpy(np.array(tensor.read())) for key, tensor in tensors.items()}, tmp_path / "s.pth")

    loaded = segmenters.load_segmenter(tmp_path / "s.pth")
    assert (loaded.func, loaded.args[0]) == (segment_everything, config)
    jax.tree.map(np.testing.assert_array_equal, loaded.args[1], folder.to_params(written))
    [found] = loaded([draw_image((21, 30))], grid=PointGrid(side=2, batch=4, min_iou=-np.inf, min_stability=0))
    assert found.entities.masks.shape[1:] == (21, 30) and len(found.entities.ids) > 0


def changed(checkpoints, tmp_path, changes: dict[str, torch.Tensor]) -> str:
    """The trainer's file with other tensors."""
    content = torch.load(checkpoints["final.pth"])
    content["model"] |= changes
    torch.save(content, tmp_path / "x.pth")
    return str(tmp_path / "x.pth")


HEAD, FUSION = "sem_seg_head.predictor.class_embed", "sem_seg_head.predictor.make_3d.enc_ffn_3d.0.linear1.bias"
LEVELS = "sem_seg_head.predictor.level_embed.weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {f"{HEAD}.weight": torch.zeros(151, 32), f"{HEAD}.bias": torch.zeros(151)},
            r"x\.pth: this Mask2Former tells 150 classes apart; masks are taken of models with one class, ",
        ),
        (
            {FUSION: torch.zeros(3)},
            r"x\.pth: is a CropFormer, which looks at crops, too; use a Mask2Former of EntitySeg",
        ),
        ({LEVELS: torch.zeros(3, 31)}, r"x\.pth: 1 tensors of another shape .*level_embed\.weight is \[3, 31\]"),
    ],
    ids=["classes", "CropFormer", "shape"],
)
def test_a_mask2former_that_is_not_for_entities_is_refused(checkpoints, tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        segmenters.load_segmenter(changed(checkpoints, tmp_path, changes))


def test_a_head_of_cocos_classes_is_read_without_them(theirs, checkpoints, small_inputs, tmp_path):
    """Instances overlap: what transformers' model says, read by the same rule. A panoptic model's masks do not."""
    head, rng = copy.deepcopy(theirs), np.random.default_rng(0)
    weights = {
        f"{HEAD}.{name}": torch.from_numpy(rng.normal(0, 0.3, (81, *rest)).astype(np.float32))
        for name, rest in (("weight", (32,)), ("bias", ()))
    }
    head.class_predictor = torch.nn.Linear(32, 81)
    head.class_predictor.load_state_dict({name.rpartition(".")[2]: tensor for name, tensor in weights.items()})
    image = draw_image((37, 61))
    classes, masks = reference_logits(head, image)
    wanted = overlapping(classes, masks, (np.eye(37), np.eye(61)))
    [found] = segmenters.load_segmenter(changed(checkpoints, tmp_path, weights))([image])
    assert found.entities.ids == wanted.entities.ids and found.left_out == wanted.left_out
    assert np.mean(found.entities.masks != wanted.entities.masks) < 1e-3
    np.testing.assert_allclose(found.entities.scores, wanted.entities.scores, atol=1e-3)
    assert (found.entities.masks.sum(0) > 1).any()
    panoptic = {f"{HEAD}.weight": torch.zeros(134, 32), f"{HEAD}.bias": torch.zeros(134)}
    assert segmenters.load_segmenter(changed(checkpoints, tmp_path, panoptic)).args[1].classes == 133


def test_other_checkpoints_are_named(golden, tmp_path):
    with pytest.raises(CheckpointError, match=r"has the CLIP layout, expected SAM or Mask2Former"):
        segmenters.load_segmenter(golden / "gella" / "clip_vision")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        segmenters.load_segmenter(tmp_path / "nothing.pth")
