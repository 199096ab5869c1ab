"""GELLA's checkpoints in and out: every part in every layout, bit for bit, and a clear no to what is wrong."""

import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util

from gella_jax import model, weights
from gella_jax.config import GellaConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import Checkpoint
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import mobilenet
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, from_array
from tests.gella.small_llava import rewritten, shape_only, state, tensors, write_files

OWN = ("blend/", "association/")  # what no published file brings


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory) -> pathlib.Path:
    return write_files(tmp_path_factory.mktemp("files"), golden)


@pytest.fixture(scope="module")
def parts(files, golden) -> dict[str, dict]:
    """Arguments of `open_parts` for either layout."""
    shared = dict(mask2former_file=files / "m2f.pth", sizes=files / "sizes.json")
    return {
        "hf": dict(language_model=files / "hf", **shared),
        "original": dict(language_model=files / "original", vision_tower=golden / "gella" / "clip_vision", **shared),
    }


@pytest.fixture(scope="module")
def checkpoints(parts, tmp_path_factory) -> dict[str, pathlib.Path]:
    """A model folder from the parts of either layout."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: save_new(weights.open_parts(**arguments), root / name) for name, arguments in parts.items()}


@pytest.fixture(scope="module")
def exports(checkpoints, tmp_path_factory) -> dict[str, pathlib.Path]:
    """These, exported to the layout that they are from."""
    root = tmp_path_factory.mktemp("exports")
    for layout, checkpoint in checkpoints.items():
        weights.export(checkpoint, layout, root / layout)
    return {layout: root / layout for layout in checkpoints}


def save_new(opened: Checkpoint, out: pathlib.Path, fresh: tuple[str, ...] = OWN) -> pathlib.Path:
    """Saves a new model; the parts that `init` makes, which takes long to compile, are drawn here."""
    rng = np.random.default_rng(0)
    drawn = {path: rng.standard_normal(leaf.shape, np.float32)
             for path, leaf in opened.leaves.items() if path.startswith(fresh)}  # fmt: skip
    leaves = opened.leaves | {path: from_array(array) for path, array in drawn.items()}
    folder.save(out, leaves, opened.config.to_json(), opened.tokenizer.save)
    return out


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key, strict=True)


def assert_grown(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], seg: int) -> None:
    """All tensors are the same, but that embedding and head have a row for [SEG], and perhaps one more."""
    for key in [key for key in wanted if "embed_tokens" in key or "lm_head" in key]:
        rows = found[key]
        found = {**found, key: rows[: len(wanted[key])]}
        np.testing.assert_array_equal(rows[seg], wanted[key][:seg].mean(0, dtype=np.float64).astype(rows.dtype))
    assert_same(found, wanted)


def without_buffers(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: array for key, array in arrays.items() if "relative_position_index" not in key and "empty" not in key}


def same_files(one: pathlib.Path, other: pathlib.Path) -> bool:
    names = {path.name for path in one.iterdir()}
    assert names == {path.name for path in other.iterdir()} and len(names) == 4
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_config_comes_from_shapes_public_files_and_sizes(checkpoints):
    config, params, tokenizer = weights.load(checkpoints["hf"])
    reader = config.llama
    assert (reader.vocab_size, reader.width, reader.hidden, reader.layers) == (129, 64, 112, 2)
    assert (reader.heads, reader.kv_heads, reader.eps, reader.lora_rank) == (4, 4, 1e-5, 8)
    assert reader.max_positions == config.model_max_length == 128
    assert (config.clip.image_size, config.clip.patch_size, config.clip.layers, config.clip.heads) == (56, 14, 3, 4)
    assert (config.backbone.depths, config.backbone.heads, config.backbone.window) == ((1, 2, 1, 1), (1, 2, 4, 4), 4)
    assert (config.mask2former.heads, config.mask2former.points, config.mask2former.queries) == (4, 4, 12)
    assert (config.blend.image_width, config.blend.width, config.blend.mask_skip) == (48, 16, True)
    assert (config.projector, config.vision_layer, config.side, config.template) == ("mlp2x_gelu", -2, 64, "vicuna_v1")
    assert (tokenizer.seg, tokenizer.rej, tokenizer.im_start, tokenizer.vocab_size) == ((128,), None, None, 129)
    assert weights.load(checkpoints["original"])[2].seg == (127,)
    assert params["blend"]["scales_0"]["conv"]["kernel"].dtype == np.float32
    assert params["llama"]["head"]["kernel"].dtype == np.float16


def test_report(parts):
    assert weights.open_parts(**parts["original"]).report == (
        "fresh: 1 token rows of embedding and head, the mean of the others",
        "fresh: LoRA of rank 8",
        f"backbone: the Swin of {parts['hf']['mask2former_file']}, "
        "which has 8 channels, depths (1, 2, 1, 1) and windows of 4",
        "fresh: ResoBlend (skip)",
        "fresh: the association (fc)",
        "assumed, and set by --sizes: lora_alpha 16.0, colours random, seg_state at, template vicuna_v1",
        "template: vicuna_v1",
        "LoRA: rank 8, alpha 16.0",
    )


def test_a_seed_draws_what_is_fresh(parts):
    """The association, which is the smallest part that is drawn."""
    first, again, other = (weights.open_parts(**parts["original"], seed=seed).leaves for seed in (0, 0, 1))
    for path in ("association/text/kernel", "association/query/kernel"):
        np.testing.assert_array_equal(first[path].read(), again[path].read())
        assert (first[path].read() != other[path].read()).mean() > 0.99


@pytest.mark.parametrize("layout", weights.LAYOUTS)
def test_exporting_what_was_imported_is_bit_equal(checkpoints, exports, parts, golden, tmp_path, layout):
    """And importing that gives the same model folder, byte for byte."""
    out, stored = exports[layout], state(parts[layout]["language_model"])
    assert_grown(state(out / "llava"), stored, seg=127 + (layout == "hf"))
    entity = golden / "gella" / "m2f_d2_entity"
    if layout == "original":
        assert_same(state(out / "clip"), state(golden / "gella" / "clip_vision"))
        assert_same(state(out / "mask2former.pth"), without_buffers(state(entity)))
    else:
        names = json.loads((entity / "name_map_to_hf.json").read_text())["hf_keys"]
        assert state(out / "mask2former").keys() == {*names} - {"criterion.empty_weight"}
    weights.open_exported(out).save(tmp_path / "again")
    assert same_files(checkpoints[layout], tmp_path / "again")


def test_from_one_layout_to_the_other(checkpoints, tmp_path):
    """Of a vocabulary without "<image>": Hugging Face's layout has a row of zeros for it, which is dropped again."""
    told = []
    weights.export(
        checkpoints["original"], "hf", tmp_path / "hf", progress=lambda done, total: told.append(done / total)
    )
    assert told == sorted(told) and told[-1] == 1
    llava = state(tmp_path / "hf" / "llava")
    assert len(llava["language_model.lm_head.weight"]) == 129
    assert not llava["language_model.model.embed_tokens.weight"][128].any()
    assert json.loads((tmp_path / "hf" / "llava" / "config.json").read_text())["image_token_index"] == 128
    opened = weights.open_exported(tmp_path / "hf")
    assert opened.report[0] == "dropped: 1 token rows that the tokenizer does not use"
    opened.save(tmp_path / "again")
    assert same_files(checkpoints["original"], tmp_path / "again")


def test_transformers_reads_the_exported_folders(exports, golden):
    """With nothing missing, and with the numbers of the goldens that the parts are from."""
    options = dict(output_loading_info=True, dtype=torch.float32)
    llava, missed = transformers.LlavaForConditionalGeneration.from_pretrained(exports["hf"] / "llava", **options)
    assert not missed["missing_keys"] and not missed["unexpected_keys"]
    given = tensors(state(golden / "gella" / "llava15" / "inputs.safetensors"))
    wanted = tensors(state(golden / "gella" / "llava15" / "outputs.safetensors"))
    with torch.no_grad():
        found = llava.eval()(**{name: given[name] for name in ("input_ids", "attention_mask")},
                             pixel_values=given["pixel_values"].float())  # fmt: skip
    real = given["attention_mask"].bool()
    torch.testing.assert_close(found.logits[real][:, :128], wanted["logits"][real], atol=1e-4, rtol=1e-4)
    tower, missed = transformers.CLIPVisionModel.from_pretrained(exports["original"] / "clip", **options)
    assert not missed["missing_keys"] and not missed["unexpected_keys"]
    images = tensors(state(golden / "gella" / "clip_vision" / "inputs.safetensors"))["pixel_values"].float()
    wanted = tensors(state(golden / "gella" / "clip_vision" / "outputs.safetensors"))
    with torch.no_grad():
        found = tower.eval()(images)
    torch.testing.assert_close(found.pooler_output, wanted["pooler_output"], atol=1e-4, rtol=1e-4)
    kind = transformers.Mask2FormerForUniversalSegmentation
    masks, missed = kind.from_pretrained(exports["hf"] / "mask2former", **options)
    unused = "model.pixel_level_module.encoder.swin.layernorm."  # what it makes and never reads
    lacking = {key for key in missed["missing_keys"] if not key.startswith(unused)}
    assert lacking <= {"criterion.empty_weight"} and not missed["unexpected_keys"]
    images = tensors(state(golden / "gella" / "m2f_d2_entity" / "inputs.safetensors"))["case0.pixel_values"].float()
    wanted = tensors(state(golden / "gella" / "m2f_d2_entity" / "outputs.safetensors"))
    with torch.no_grad():
        found = masks.eval()(images)
    torch.testing.assert_close(found.masks_queries_logits, wanted["case0.layer5.mask_logits"], atol=5e-4, rtol=0)


def test_lora_is_kept_apart_or_folded_in(checkpoints, tmp_path):
    """The kernels of the export are those of LLaVA, or W + scale A B; nothing is lost by keeping them apart."""
    rng = np.random.default_rng(0)
    leaves = folder.open_folder(checkpoints["original"])
    for path in [path for path in leaves if path.endswith("lora_b")]:
        leaves[path] = from_array(rng.normal(size=leaves[path].shape).astype(np.float32))
    config, _, tokenizer = weights.load(checkpoints["original"])
    folder.save(tmp_path / "trained", leaves, config.to_json(), tokenizer.save)
    weights.export(tmp_path / "trained", "original", tmp_path / "apart")
    weights.export(tmp_path / "trained", "original", tmp_path / "folded", merge_lora=True)
    apart, folded = (state(tmp_path / name / "llava") for name in ("apart", "folded"))
    attention = folder.load(tmp_path / "trained")["llama"]["layers"]["attn"]
    for name in "qv":
        key = f"model.layers.1.self_attn.{name}_proj.weight"
        stored = {leaf: array[1].astype(np.float64) for leaf, array in attention[name].items()}
        np.testing.assert_array_equal(apart[key], stored["kernel"].T)
        wanted = stored["kernel"] + 2.0 * stored["lora_a"] @ stored["lora_b"]
        np.testing.assert_allclose(folded[key], wanted.T, rtol=2e-3, atol=2e-3)  # float16
        assert np.abs(folded[key] - apart[key]).max() > 0.1
    assert same_files(tmp_path / "trained", saved(weights.open_exported(tmp_path / "apart"), tmp_path / "again"))
    merged = weights.open_exported(tmp_path / "folded")
    assert merged.config.llama.lora_rank == 0 and "LoRA: none" in merged.report


def saved(opened: Checkpoint, out: pathlib.Path) -> pathlib.Path:
    opened.save(out)
    return out


def test_a_projector_of_one_layer(files, parts, tmp_path):
    """LLaVA v1, in bfloat16."""
    arrays = {key: array for key, array in state(files / "original").items() if ".mm_projector.2." not in key}
    arrays = {key.replace("mm_projector.0", "mm_projector"): array for key, array in arrays.items()}
    (tmp_path / "v1").mkdir()
    for name in ("tokenizer.model", "config.json"):
        shutil.copy(files / "original" / name, tmp_path / "v1")
    torch.save({k: t.bfloat16() for k, t in tensors(arrays).items()}, tmp_path / "v1" / "pytorch_model.bin")
    opened = weights.open_parts(**{**parts["original"], "language_model": tmp_path / "v1"})
    assert opened.config.projector == "linear"
    assert opened.leaves["projector/kernel"].dtype == ml_dtypes.bfloat16
    save_new(opened, tmp_path / "ckpt")
    weights.export(tmp_path / "ckpt", "original", tmp_path / "out")
    assert_grown(state(tmp_path / "out" / "llava"), state(tmp_path / "v1"), seg=127)
    with pytest.raises(CheckpointError, match="layout hf: has no place for a projector of one layer; use original"):
        weights.export(tmp_path / "ckpt", "hf", tmp_path / "other")


@pytest.mark.parametrize("convention", ["torchvision", "tensorflow"])
def test_mobilenet_keeps_its_convention(parts, golden, tmp_path, convention):
    """Hugging Face's file, or torchvision's; it comes out in the naming that tells."""
    stored = golden / "gella" / "mobilenet_v2"
    leaves = mobilenet.transformers().to_ours(open_weights(stored), "MobileNetV2")
    path = stored
    if convention == "torchvision":
        path = tmp_path / "mobilenet.pth"
        torch.save({k: torch.from_numpy(np.array(t.read()))
                    for k, t in mobilenet.torchvision().to_torch(leaves, "MobileNetV2").items()}
                   | {"features.18.0.weight": torch.zeros(3), "classifier.1.bias": torch.zeros(3)}, path)  # fmt: skip
    opened = weights.open_parts(**parts["hf"], backbone_file=path)
    usual = getattr(MobileNetConfig, convention)()
    assert (opened.config.backbone.same_padding, opened.config.backbone.eps) == (usual.same_padding, usual.eps)
    of_channels = ("mask2former/pixel_decoder/input_proj", "mask2former/pixel_decoder/lateral/")
    save_new(opened, tmp_path / "ckpt", fresh=OWN + of_channels)
    weights.export(tmp_path / "ckpt", "hf", tmp_path / "out")
    name = "backbone.pth" if convention == "torchvision" else "backbone"
    counters_and_heads = ("num_batches_tracked", "features.18", "classifier", "conv_1x1")
    wanted = {k: a for k, a in state(path).items() if not any(part in k for part in counters_and_heads)}
    assert_same(state(tmp_path / "out" / name), wanted)
    assert same_files(tmp_path / "ckpt", saved(weights.open_exported(tmp_path / "out"), tmp_path / "again"))


def test_wrong_files(files, parts, golden, checkpoints, tmp_path):
    tower, segmenter = golden / "gella" / "clip_vision", files / "m2f.pth"

    def refused(message: str, **changes):
        with pytest.raises((CheckpointError, FileNotFoundError), match=message) as caught:
            weights.open_parts(**{**parts["original"], **changes})
        assert "\n" not in str(caught.value)

    refused("clip_vision: has the CLIP layout, expected llava or llava-hf", language_model=tower)
    refused(r"m2f\.pth: has the Mask2Former layout, expected CLIP", vision_tower=segmenter)
    refused("has the llava layout, expected Mask2Former or Mask2Former-hf", mask2former_file=files / "original")
    refused("has the Mask2Former layout, expected Swin or Swin-hf or MobileNetV2", backbone_file=segmenter)
    refused("has no known layout", language_model=checkpoints["hf"])
    refused("original: has no vision tower inside; the folder of its CLIP is needed, too", vision_tower=None)
    refused("no such file or folder", mask2former_file=tmp_path / "nothing")
    refused("swin_b: unknown, known are swin_t, swin_l, mobilenet_v2", backbone_name="swin_b")
    refused("swin_t: would be fresh, but .* is to be the backbone", backbone_name="swin_t", backbone_file=segmenter)
    refused("preset best: unknown, known are paper, skip, mask_query", preset="best")
    refused("template chatml: unknown, known are vicuna_v1, plain", template="chatml")
    two_stages = golden / "gella" / "swin_model"
    refused(r"swin_model: the names don't fit .* 40 missing \(encoder\.layers\.\{2-3\}", backbone_file=two_stages)
    shutil.copytree(files / "original", tmp_path / "half", ignore=shutil.ignore_patterns("tokenizer.model"))
    refused(r"half/tokenizer\.model is missing", language_model=tmp_path / "half")
    crops = torch.load(segmenter, weights_only=True)["model"] | {"sem_seg_head.predictor.make_3d.bias": torch.zeros(2)}
    torch.save(crops, tmp_path / "crops.pth")
    refused(r"crops\.pth: is a CropFormer", mask2former_file=tmp_path / "crops.pth")
    arrays = {key: array for key, array in state(files / "original").items() if "layers.1.mlp.up_proj" not in key}
    lacking = rewritten(files / "original", tmp_path / "lacking", weights=arrays)
    refused(r"missing \(model\.layers\.1\.mlp\.up_proj\.weight\)", language_model=lacking)


def test_sizes_that_do_not_fit(files, parts, tmp_path):
    def refused(message: str, **sizes):
        (tmp_path / "sizes.json").write_text(json.dumps(sizes))
        with pytest.raises(ValueError, match=message):
            weights.open_parts(**{**parts["original"], "sizes": tmp_path / "sizes.json"})

    refused(r"m2f\.pth: .*: queries is 20, the weights have 12", nheads=4, num_queries=20)
    refused("unknown key num_querie, did you mean num_queries", num_querie=20)
    refused("seg_state is 'after'", seg_state="after", nheads=4)
    other = rewritten(files / "original", tmp_path / "other", num_hidden_layers=3)
    with pytest.raises(CheckpointError, match=r"num_hidden_layers 3 \(weights: 2\)"):
        weights.open_parts(**{**parts["original"], "language_model": other})


def test_ablations_are_sizes(parts, tmp_path):
    sizes = {"nheads": 4, "sa": False, "assoc": "fc_relu_fc", "lora_r": 0, "vision_layer": -1, "remark": "mine"}
    sizes |= {"colours": "location", "seg_state": "predicting"}
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    opened = weights.open_parts(**{**parts["hf"], "sizes": tmp_path / "sizes.json"}, preset="mask_query")
    assert (opened.config.blend.sa, opened.config.blend.query, opened.config.vision_layer) == (False, "mask", -1)
    assert (opened.config.colours, opened.config.seg_state) == ("location", "predicting")
    assert "association/text/fc2/kernel" in opened.leaves and "blend/self_attn/q/kernel" not in opened.leaves
    assert opened.report[-2:] == ("LoRA: none", "sizes that set nothing: remark")


def test_outputs_are_never_overwritten(checkpoints, tmp_path):
    (tmp_path / "mask2former.pth").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match=r"mask2former\.pth: already exists"):
        weights.export(checkpoints["hf"], "original", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mask2former.pth"]
    with pytest.raises(CheckpointError, match="layout onnx: unknown, known are original and hf"):
        weights.export(checkpoints["hf"], "onnx", tmp_path)


def phantoms(config: GellaConfig) -> dict[str, LazyTensor]:
    shapes = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
    return {path: shape_only(leaf.shape) for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}


@pytest.fixture(scope="module")
def gella_7b() -> dict[str, LazyTensor]:
    return phantoms(GellaConfig.gella_7b("swin_l"))


@pytest.mark.parametrize("layout", weights.LAYOUTS)
def test_every_name_of_gella_7b(gella_7b, layout):
    """Every leaf has one name, and every name gives it back."""
    config = GellaConfig.gella_7b("swin_l")
    parts = {name: part.to_torch(gella_7b, name) for name, part in weights.parts(config, layout).items()}
    back = {}
    for name, part in weights.parts(config, layout).items():
        back |= part.table.to_ours(parts[name], name)
    own = {path for path in gella_7b if path.startswith(OWN)}
    assert {path: leaf.shape for path, leaf in back.items()} == {
        path: leaf.shape for path, leaf in gella_7b.items() if path not in own
    }
    shapes = {key: tensor.shape for part in parts.values() for key, tensor in part.items()}
    if layout == "original":
        # 32 layers of 9 and 3 more; the projector; 24 layers of 16 and 7 more.
        assert [len(parts[name]) for name in ("llava", "clip")] == [32 * 9 + 3 + 4, 24 * 16 + 7]
        assert shapes["model.mm_projector.2.weight"] == (4096, 4096)
        assert shapes["vision_model.embeddings.position_embedding.weight"] == (577, 1024)
        assert shapes["backbone.layers.2.blocks.17.attn.qkv.weight"] == (3 * 768, 768)
        assert shapes["sem_seg_head.predictor.class_embed.weight"] == (2, 256)
    else:
        with torch.device("meta"):
            theirs = transformers.LlavaForConditionalGeneration(
                transformers.LlavaConfig(
                    text_config=transformers.LlamaConfig(vocab_size=32001, max_position_embeddings=4096),
                    vision_config=transformers.CLIPVisionConfig(
                        image_size=336, patch_size=14, hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
                        num_attention_heads=16,
                    ),
                )
            )  # fmt: skip
        table = weights.parts(config, layout)["llava"].table
        found = table.to_ours({key: shape_only(tensor.shape) for key, tensor in theirs.state_dict().items()}, "theirs")
        language = ("llama/", "clip/", "projector/")
        assert {path: leaf.shape for path, leaf in found.items()} == {
            path: leaf.shape for path, leaf in gella_7b.items() if path.startswith(language)
        }
