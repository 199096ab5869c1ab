"""The two sides of a new GELLA: what is taken of the files, what is left out, and what is made fresh."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import torch

from gella_jax import import_parts
from gella_jax.config import GellaConfig
from grounding_jax.models.mobilenet import MobileNetConfig
from grounding_jax.models.swin import SwinConfig
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.sizes import Sizes
from grounding_jax.weights.tables import swin
from grounding_jax.weights.tensors import LazyTensor
from grounding_jax.weights.writers import write_safetensors
from tests.gella.small_llava import rewritten, shape_only, state, tensors, write_files

HEADS = Sizes({"mask2former": {"heads": 4}})


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory) -> pathlib.Path:
    return write_files(tmp_path_factory.mktemp("files"), golden)


NEWER = {
    "in memory": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "vision_tower.vision_model.": "model.vision_tower.",
    },
    "in files": {"vision_tower.vision_model.": "vision_tower."},
    "with a whole tower": {
        "language_model.model.": "model.language_model.",
        "language_model.lm_head.": "lm_head.",
        "multi_modal_projector.": "model.multi_modal_projector.",
        "vision_tower.": "model.vision_tower.",
    },
}


@pytest.mark.parametrize("version", NEWER)
def test_names_of_transformers_5(files, tmp_path, version):
    changed = {}
    for key, array in state(files / "hf").items():
        for old, new in NEWER[version].items():
            if key.startswith(old):
                key = new + key.removeprefix(old)
                break
        changed[key] = array
    changed["model.language_model.layers.0.self_attn.rotary_emb.inv_freq"] = np.zeros(8, np.float32)
    newer = rewritten(files / "hf", tmp_path / "newer", weights=changed)
    found, wanted = (import_parts.language_side(path, None, Sizes(), seed=0).leaves for path in (newer, files / "hf"))
    assert found.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_array_equal(found[path].read(), wanted[path].read(), err_msg=path, strict=True)


def test_a_tower_that_transformers_5_wrote(files, golden, tmp_path):
    path = golden / "gella" / "clip_vision"
    shutil.copytree(path, tmp_path / "clip")
    shorter = {key.removeprefix("vision_model."): tensor for key, tensor in tensors(state(path)).items()}
    torch.save(shorter, tmp_path / "clip" / "pytorch_model.bin")
    (tmp_path / "clip" / "model.safetensors").unlink()
    for part in ("inputs", "outputs"):
        (tmp_path / "clip" / f"{part}.safetensors").unlink()
    opened = import_parts.language_side(files / "original", tmp_path / "clip", Sizes(), seed=0)
    stored = state(path)["vision_model.encoder.layers.2.mlp.fc1.weight"]
    np.testing.assert_array_equal(opened.leaves["clip/layers/mlp/fc1/kernel"].read()[2], stored.T)


def test_padding_of_the_vocabulary_is_no_place_for_seg(files, tmp_path):
    """Hugging Face's LLaVA-1.5 has 32,064 rows, and [SEG] must be 32002, behind "<image>" and "<pad>"."""
    arrays = state(files / "hf")
    for key in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight"):
        arrays[key] = np.concatenate([arrays[key], 1 + arrays[key][:64]])
    padded = rewritten(files / "hf", tmp_path / "padded", weights=arrays)
    (padded / "added_tokens.json").write_text(json.dumps({"<image>": 127, "<pad>": 128}))
    opened = import_parts.language_side(padded, None, Sizes(), seed=0)
    assert (opened.tokenizer.seg, opened.tokenizer.vocab_size, opened.llama.vocab_size) == ((129,), 130, 130)
    assert opened.report == [
        "fresh: 1 token rows of embedding and head, the mean of the others",
        "dropped: 63 token rows that the tokenizer does not use",
        "fresh: LoRA of rank 8",
    ]
    embedding = opened.leaves["llama/embed/embedding"].read()
    stored = arrays["language_model.model.embed_tokens.weight"]
    np.testing.assert_array_equal(embedding[:129], stored[:129])
    np.testing.assert_array_equal(embedding[129], stored[:129].mean(0, dtype=np.float64).astype(np.float16))
    head = opened.leaves["llama/head/kernel"].read()
    np.testing.assert_array_equal(head[:, :129], arrays["language_model.lm_head.weight"][:129].T)


def test_what_a_nested_config_leaves_out(files, tmp_path):
    """transformers 4 wrote only what differs from its defaults: no heads for a 7B."""
    nested = json.loads((files / "hf" / "config.json").read_text())["text_config"]
    short = {key: nested[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    folder_ = rewritten(files / "hf", tmp_path / "short", text_config=short)
    config = import_parts.language_side(folder_, None, Sizes(), seed=0).llama
    assert (config.heads, config.eps, config.max_positions) == (32, 1e-6, 2048)


def test_the_tower_of_its_own_folder_wins(files, golden, tmp_path):
    tower = golden / "gella" / "clip_vision"
    opened = import_parts.language_side(files / "hf", tower, Sizes(), seed=0)
    assert opened.report[0] == f"left out: 55 tensors of the vision tower inside, {tower} is used"
    stored = state(tower)["vision_model.embeddings.position_embedding.weight"]
    np.testing.assert_array_equal(opened.leaves["clip/pos_embed"].read(), stored)
    inside = {f"model.vision_tower.vision_tower.{key}": array for key, array in state(tower).items()}
    both = rewritten(files / "original", tmp_path / "both", weights=state(files / "original") | inside)
    alone = import_parts.language_side(both, None, Sizes(), seed=0)
    np.testing.assert_array_equal(alone.leaves["clip/pos_embed"].read(), stored)
    assert alone.clip.heads == 1  # nothing tells the heads of this one; a head of 64 is usual


def branch(files, mask2former="m2f.pth", backbone_file=None, backbone_name=None) -> import_parts.MaskBranch:
    return import_parts.mask_branch(files / mask2former, backbone_file, backbone_name, HEADS, seed=0)


def test_a_head_for_other_classes_is_made_fresh(files, golden):
    hub = golden / "gella" / "m2f_hf"  # 5 classes; its config.json tells the heads, too
    opened = branch(files, hub)
    assert (opened.mask2former.classes, opened.mask2former.heads) == (1, 4)
    stem = "transformer_decoder/heads/class_embed"
    assert opened.report[1:] == [
        "left out: Mask2Former's head for 5 classes, GELLA has one for entities",
        f"fresh: mask2former's {stem}/bias, {stem}/kernel",
    ]
    assert opened.leaves[f"mask2former/{stem}/kernel"].shape == (64, 2)
    stored = state(hub)["model.transformer_module.queries_features.weight"]
    np.testing.assert_array_equal(opened.leaves["mask2former/transformer_decoder/query_feat"].read(), stored)


def test_a_backbone_that_was_asked_for(files, monkeypatch):
    """The Swin inside the file is not the wanted one: it stays out, and so does what depends on its channels."""
    opened = branch(files, backbone_name="mobilenet_v2")
    assert opened.backbone == MobileNetConfig.torchvision()
    assert opened.mask2former.channels == (24, 32, 96, 320)
    assert opened.report == [
        f"left out: the Swin of {files / 'm2f.pth'}, which has 8 channels, depths (1, 2, 1, 1) and windows of 4",
        "fresh: the backbone, with widths (16, 24, 32, 64, 96, 160, 320)",
        "left out: Mask2Former's convolutions of maps of (8, 16, 32, 64) channels, not (24, 32, 96, 320)",
        "fresh: mask2former's pixel_decoder/lateral/kernel, pixel_decoder/input_proj_{0-2}/kernel",
    ]
    # It is the wanted one whatever its window: Swin-L has 12, or 7 in the models of EntitySeg.
    small = SwinConfig(width=8, depths=(1, 2, 1, 1), heads=(1, 2, 4, 4), window=7)
    monkeypatch.setitem(import_parts.BACKBONES, "small", small)
    opened = branch(files, backbone_name="small")
    assert opened.backbone.window == 4 and opened.report[0].startswith("backbone: the Swin of ")


def test_a_whole_mask_branch_is_fresh():
    """A Swin-T and Mask2Former for entities."""
    opened = import_parts.mask_branch(None, None, None, Sizes(), seed=0)
    assert opened.report == [
        "fresh: the backbone, with 96 channels, depths (2, 2, 6, 2) and windows of 7",
        "fresh: Mask2Former",
    ]
    published = GellaConfig.gella_7b()
    assert (opened.backbone, opened.mask2former) == (published.backbone, published.mask2former)


def stand_alone(golden, hf: bool) -> dict[str, LazyTensor]:
    """The Swin of the golden Mask2Former as a file of its own: a norm at the end in the place of four, and a head."""
    leaves = swin.original("backbone.").to_ours(
        {k: t for k, t in open_weights(golden / "gella" / "m2f_d2_entity").items() if k.startswith("backbone.")}, "m2f"
    )
    leaves = {path: leaf for path, leaf in leaves.items() if not path.startswith("norm")}
    leaves |= {f"norm/{name}": shape_only((64,)) for name in ("scale", "bias")}
    table = swin.transformers("swin.", detection=False) if hf else swin.original(detection=False)
    return table.to_torch(leaves, "Swin") | {"classifier.bias" if hf else "head.bias": shape_only((9,))}


@pytest.mark.parametrize("layout", ["original", "hf"])
def test_a_backbone_of_its_own_file_wins(files, golden, tmp_path, layout):
    """A stand-alone Swin, whose maps have had no norms yet."""
    write_safetensors(tmp_path, stand_alone(golden, layout == "hf"))
    opened, inside = branch(files, backbone_file=tmp_path), branch(files)
    assert opened.report[0].startswith("left out: the Swin of ")
    assert opened.report[1].startswith(f"backbone: {tmp_path}, which has 8 channels")
    assert opened.report[2] == "fresh: backbone's " + ", ".join(
        f"norm{i}/{name}" for i in range(4) for name in ("bias", "scale")
    )
    assert opened.backbone == inside.backbone and opened.leaves.keys() == inside.leaves.keys()
    for path in ("backbone/patch_embed/kernel", "backbone/stages_2/merge/reduction/kernel"):
        np.testing.assert_array_equal(opened.leaves[path].read(), inside.leaves[path].read(), strict=True)
