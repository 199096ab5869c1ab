"""GSVA's checkpoints in and out: every layout, bit for bit, and a clear no to what is wrong."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from flax import traverse_util

from grounding_jax.models.lora import merge
from grounding_jax.weights import folder
from grounding_jax.weights.delta import write_delta
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import CheckpointError
from gsva_jax import weights


@pytest.fixture(scope="module")
def tiny(golden):
    return golden / "gsva"


@pytest.fixture(scope="module")
def official(tiny) -> dict[str, torch.Tensor]:
    return torch.load(tiny / "gsva-tiny-a.bin", weights_only=True)


@pytest.fixture(scope="module")
def checkpoint(tiny, tmp_path_factory):
    """The official checkpoint as a model folder."""
    out = tmp_path_factory.mktemp("import") / "gsva"
    opened = weights.open_official(
        tiny / "gsva-tiny-a.bin", tiny / "tiny-llava", tiny / "tiny-clip", tiny / "config.json"
    )
    opened.save(out)
    return out


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.equal(found[key], tensor), key


def test_config_comes_from_shapes_and_sizes(checkpoint, tiny):
    config, params, tokenizer = weights.load(checkpoint)
    assert (config.llama.vocab_size, config.llama.heads, config.llama.lora_rank) == (424, 4, 8)
    assert config.llama.lora_scale == 2.0
    assert (config.clip.image_size, config.clip.patch_size, config.clip.heads) == (56, 14, 4)
    assert (config.sam.image_size, config.sam.window, config.sam.global_blocks) == (128, 3, (1, 3))
    assert (config.sam.decoder_heads, config.sam.iou_hidden, config.select_layer) == (4, 32, -2)
    assert (tokenizer.seg, tokenizer.rej, tokenizer.vocab_size) == ((420,), 421, 424)
    wanted = weights.official_table(lora=True).to_ours(open_weights(tiny / "gsva-tiny-a.bin"), "tiny")
    flat = traverse_util.flatten_dict(params, sep="/")
    assert flat.keys() == wanted.keys()
    for path, leaf in wanted.items():
        np.testing.assert_array_equal(flat[path], leaf.read(), strict=True)


@pytest.mark.parametrize("name", ["gsva-tiny-a.bin", "gsva-tiny-a.safetensors"])
def test_exporting_what_was_imported_is_bit_equal(tiny, official, tmp_path, name):
    sizes = tiny / "config.json"
    weights.open_official(tiny / name, tiny / "tiny-llava", tiny / "tiny-clip", sizes).save(tmp_path / "ckpt")
    weights.export(tmp_path / "ckpt", "official", tmp_path / "out.bin")
    assert_same(torch.load(tmp_path / "out.bin", weights_only=True, mmap=True), official)


def test_mixed_dtypes_are_kept(tiny, official, tmp_path):
    """Trained tensors in float32, frozen ones in bfloat16, as DeepSpeed leaves them (spec gsva b.1)."""
    trained = ("lora_", "embed_tokens", "lm_head", "mask_decoder", "text_hidden_fcs")
    mixed = {
        key: tensor if any(part in key for part in trained) else tensor.bfloat16() for key, tensor in official.items()
    }
    torch.save(mixed, tmp_path / "mixed.bin")
    opened = weights.open_official(tmp_path / "mixed.bin", tiny / "tiny-llava", None, tiny / "config.json")
    opened.save(tmp_path / "ckpt")
    weights.export(tmp_path / "ckpt", "official", tmp_path / "out.bin")
    assert_same(torch.load(tmp_path / "out.bin", weights_only=True), mixed)
    params = folder.load(tmp_path / "ckpt")
    assert params["llama"]["layers"]["attn"]["q"]["kernel"].dtype == ml_dtypes.bfloat16
    assert params["llama"]["layers"]["attn"]["q"]["lora_a"].dtype == np.float32


def test_newer_peft_names_and_buffers_are_accepted(tiny, official, tmp_path):
    newer = {}
    for key, tensor in official.items():
        for name in ("q_proj", "v_proj"):
            if "model.layers." in key and "vision" not in key:
                key = key.replace(f"self_attn.{name}.weight", f"self_attn.{name}.base_layer.weight")
        newer[key] = tensor
    assert newer.keys() != official.keys()
    prefix = "base_model.model.model."
    newer[f"{prefix}layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
    newer[f"{prefix}vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.zeros(1, 17)
    newer[f"{prefix}visual_model.pixel_mean"] = torch.zeros(3, 1, 1)
    torch.save(newer, tmp_path / "newer.bin")
    weights.open_official(tmp_path / "newer.bin", tiny / "tiny-llava", None, tiny / "config.json").save(
        tmp_path / "ckpt"
    )
    weights.export(tmp_path / "ckpt", "official", tmp_path / "out.bin")
    assert_same(torch.load(tmp_path / "out.bin", weights_only=True), official)


def test_merged_lora_is_w_plus_scaled_ba(checkpoint, official, tmp_path, tiny):
    weights.export(checkpoint, "official", tmp_path / "merged.bin", merge_lora=True)
    merged = torch.load(tmp_path / "merged.bin", weights_only=True)
    assert merged.keys() == {key for key in official if "lora_" not in key}
    for key, tensor in merged.items():
        stem = key.removesuffix(".weight")
        wanted = official[key].double()
        if f"{stem}.lora_A.default.weight" in official:
            low = (
                official[f"{stem}.lora_B.default.weight"].double() @ official[f"{stem}.lora_A.default.weight"].double()
            )
            assert low.abs().max() > 1e-3
            wanted = wanted + 2.0 * low
        torch.testing.assert_close(tensor.double(), wanted, rtol=0, atol=1e-6)
    reopened = weights.open_official(tmp_path / "merged.bin", tiny / "tiny-llava", None, tiny / "config.json")
    assert reopened.config.llama.lora_rank == 0


def test_merging_rounds_once():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(6, 6)).astype(ml_dtypes.bfloat16)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((6, 2), (2, 6)))
    exact = kernel.astype(np.float64) + 2.0 * (a.astype(np.float64) @ b.astype(np.float64))
    np.testing.assert_array_equal(merge(kernel, a, b, 2.0), exact.astype(np.float32).astype(ml_dtypes.bfloat16))


def test_lisa_layout_round_trip(checkpoint, official, tiny, tmp_path):
    """Two trips: the first folds LoRA in, the second must give the same folder bit for bit."""
    weights.export(checkpoint, "lisa", tmp_path / "lisa")
    state = load_shards(tmp_path / "lisa")
    names = {key.removeprefix("base_model.model.") for key in official}
    assert state.keys() == {key for key in names if "lora_" not in key and "vision_tower" not in key}
    sizes = tiny / "config.json"
    opened = weights.open_lisa(tmp_path / "lisa", tiny / "tiny-llava", tiny / "tiny-clip", sizes)
    assert opened.config.llama.lora_rank == 0
    assert opened.tokenizer.rej == 421  # told by the number of rows: this LISA layout holds a GSVA
    opened.save(tmp_path / "ckpt")
    weights.export(tmp_path / "ckpt", "lisa", tmp_path / "lisa again")
    assert_same(load_shards(tmp_path / "lisa again"), state)
    public = json.loads((tmp_path / "lisa again" / "config.json").read_text())
    assert (public["hidden_size"], public["num_attention_heads"], public["out_dim"]) == (48, 4, 32)
    assert public["torch_dtype"] == "float32"


def load_shards(path) -> dict[str, torch.Tensor]:
    index = json.loads((path / "pytorch_model.bin.index.json").read_text())["weight_map"]
    state = {}
    for shard in set(index.values()):
        state |= torch.load(path / shard, weights_only=True)
    assert state.keys() == index.keys()
    return state


def test_a_true_lisa_has_no_rejection(checkpoint, tiny, tmp_path):
    weights.export(checkpoint, "lisa", tmp_path / "lisa")
    state = load_shards(tmp_path / "lisa")
    state |= {key: state[key][:423] for key in ("lm_head.weight", "model.embed_tokens.weight")}
    state["model.vision_tower.vision_tower.vision_model.post_layernorm.bias"] = torch.zeros(32)
    shutil.rmtree(tmp_path / "lisa")
    (tmp_path / "lisa").mkdir()
    torch.save(state, tmp_path / "lisa" / "pytorch_model.bin")
    opened = weights.open_lisa(tmp_path / "lisa", tiny / "tiny-llava", tiny / "tiny-clip", tiny / "config.json")
    assert (opened.tokenizer.seg, opened.tokenizer.rej, opened.tokenizer.vocab_size) == ((420,), None, 423)
    assert opened.report[0].startswith("left out: 1 tensors of the vision tower inside")


def test_a_new_gsva_from_its_parts(tiny, tmp_path):
    parts = tiny / "tiny-llava", tiny / "tiny-clip", tiny / "tiny_sam_vit_b.pth"
    opened = weights.open_llava(*parts, tiny / "config.json")
    assert [line for line in opened.report if line.startswith("fresh")] == [
        "fresh: 4 token rows of embedding and head, from N(0, 0.02)",
        "fresh: LoRA of rank 8",
        "fresh: the MLP from the language model to SAM's prompts",
    ]
    opened.save(tmp_path / "new")
    config, params, tokenizer = weights.load(tmp_path / "new")
    assert tokenizer.vocab_size == config.llama.vocab_size == 424
    llava = {key: tensor.read() for key, tensor in open_weights(tiny / "tiny-llava").items()}
    llama = params["llama"]
    np.testing.assert_array_equal(llama["embed"]["embedding"][:420], llava["model.embed_tokens.weight"])
    np.testing.assert_array_equal(llama["head"]["kernel"][:, :420], llava["lm_head.weight"].T)
    # The release draws the projector anew here (spec gsva h.1).
    np.testing.assert_array_equal(params["projector"]["kernel"], llava["model.mm_projector.weight"].T)
    fresh = np.concatenate([llama["embed"]["embedding"][420:].ravel(), llama["head"]["kernel"][:, 420:].ravel()])
    assert 0.015 < fresh.std() < 0.025
    adapters = llama["layers"]["attn"]["v"]
    assert 0.9 / 48**0.5 < np.abs(adapters["lora_a"]).max() < 1 / 48**0.5
    assert not np.array_equal(adapters["lora_a"], llama["layers"]["attn"]["q"]["lora_a"])
    assert not adapters["lora_b"].any() and adapters["lora_b"].dtype == np.float32
    same, other = (weights.open_llava(*parts, tiny / "config.json", seed=seed).leaves for seed in (0, 1))
    path = "prompt_mlp/fc1/kernel"
    np.testing.assert_array_equal(same[path].read(), params["prompt_mlp"]["fc1"]["kernel"])
    assert not np.array_equal(other[path].read(), same[path].read())


def test_llava_as_a_difference(tiny, tmp_path):
    """base + delta = LLaVA, with rows and a projector that only the delta has (spec gsva b.4)."""
    target = {key: tensor.half() for key, tensor in torch.load(tiny / "tiny-llava" / "pytorch_model.bin").items()}
    generator = torch.Generator().manual_seed(0)
    base, delta = {}, {}
    for key, tensor in target.items():
        if "mm_projector" in key:
            delta[key] = tensor
            continue
        rows = 400 if "embed_tokens" in key or "lm_head" in key else len(tensor)
        base[key] = torch.randn(rows, *tensor.shape[1:], generator=generator).half()
        delta[key] = tensor.clone()
        delta[key][:rows] -= base[key]
    wanted = {key: tensor.clone() for key, tensor in delta.items()}
    for key, tensor in base.items():
        wanted[key][: len(tensor)] += tensor  # what the published script computes in float16
    base["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(6)
    shutil.copytree(tiny / "tiny-llava", tmp_path / "delta")
    (tmp_path / "base").mkdir()
    torch.save(base, tmp_path / "base" / "pytorch_model.bin")
    torch.save(delta, tmp_path / "delta" / "pytorch_model.bin")
    write_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "llava")
    assert_same(load_shards(tmp_path / "llava"), wanted)
    assert (tmp_path / "llava" / "tokenizer.model").exists() and (tmp_path / "llava" / "config.json").exists()
    parts = dict(vision_tower=tiny / "tiny-clip", sam_file=tiny / "tiny_sam_vit_b.pth", sizes=tiny / "config.json")
    direct = weights.open_llava(tmp_path / "delta", base=tmp_path / "base", **parts).leaves
    two_steps = weights.open_llava(tmp_path / "llava", **parts).leaves
    for path, leaf in two_steps.items():
        np.testing.assert_array_equal(direct[path].read(), leaf.read(), strict=True)
    del base["model.norm.weight"]
    torch.save(base, tmp_path / "base" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"not of one model; only in the delta: \['model\.norm\.weight'\]"):
        write_delta(tmp_path / "base", tmp_path / "delta", tmp_path / "again")


def test_wrong_layout(tiny, checkpoint):
    llava, tower, segmenter = tiny / "tiny-llava", tiny / "tiny-clip", tiny / "tiny_sam_vit_b.pth"
    for path, found in ((llava, "llava"), (tower, "CLIP"), (segmenter, "SAM")):
        with pytest.raises(CheckpointError, match=f"has the {found} layout, expected official"):
            weights.open_official(path, llava)
    with pytest.raises(CheckpointError, match="has the official layout, expected lisa"):
        weights.open_lisa(tiny / "gsva-tiny-a.bin", llava, tower)
    with pytest.raises(CheckpointError, match="has the CLIP layout, expected SAM"):
        weights.open_llava(llava, tower, tower)
    with pytest.raises(CheckpointError, match="has no known layout"):
        weights.open_official(checkpoint, llava)


def test_wrong_vocabulary(tiny, official, tmp_path):
    prefix = "base_model.model."
    rows = {f"{prefix}lm_head.weight", f"{prefix}model.embed_tokens.weight"}
    torch.save({key: t[:423] if key in rows else t for key, t in official.items()}, tmp_path / "x.bin")
    message = r"x\.bin: has 423 token rows, the tokenizer of .* makes 424 tokens .* one of 421 tokens .* or 419"
    with pytest.raises(CheckpointError, match=message):
        weights.open_official(tmp_path / "x.bin", tiny / "tiny-llava", None, tiny / "config.json")


def test_missing_tokenizer_and_language_model(tiny, tmp_path):
    shutil.copy(tiny / "tiny-llava" / "config.json", tmp_path)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"tokenizer\.model"):
            weights.open_official(tiny / "gsva-tiny-a.bin", path)


@pytest.fixture
def sizes(tmp_path):
    """Writes a `--sizes` file."""

    def write(**values) -> Path:
        (tmp_path / "sizes.json").write_text(json.dumps(values))
        return tmp_path / "sizes.json"

    return write


def test_sizes_that_contradict_the_weights(tiny, sizes):
    def open_with(**values):
        return weights.open_official(tiny / "gsva-tiny-a.bin", tiny / "tiny-llava", tiny / "tiny-clip", sizes(**values))

    with pytest.raises(CheckpointError, match=r"tiny-a\.bin: .*: hidden is 99, the weights have 112"):
        open_with(inter=99)
    with pytest.raises(CheckpointError, match=r"sizes\.json: heads: Expected `int`, got `str`"):
        open_with(heads="8")
    with pytest.raises(CheckpointError, match=r"sizes\.json: sam_ln_eps: is -1.0, should be a number from 0 to"):
        open_with(sam_ln_eps=-1.0)
    with pytest.raises(CheckpointError, match="unknown key lora_alpah, did you mean lora_alpha"):
        open_with(lora_alpah=16)
    with pytest.raises(CheckpointError, match="template chatml: unknown, known are llava_v1"):
        open_with(template="chatml")
    opened = open_with(lora_alpha=4, template="llava_llama_2", remark="mine")
    assert (opened.config.llama.lora_scale, opened.config.template) == (0.5, "llava_llama_2")
    assert "sizes that set nothing: remark" in opened.report


def test_sizes_that_nobody_told_are_said(tiny, sizes):
    def assumed(*files, **options) -> list[str]:
        report = weights.open_official(tiny / "gsva-tiny-a.bin", tiny / "tiny-llava", *files, **options).report
        return [line.partition(": ")[2] for line in report if line.startswith("assumed, and set by --sizes: ")]

    ours = "dec_heads 8, template llava_v1, model_max_length 1024"
    assert assumed() == [
        f"lora_alpha 16.0, clip_heads 1, clip_ln_eps 1e-05, clip_act quick_gelu, sam_ln_eps 1e-06, {ours}"
    ]
    assert assumed(tiny / "tiny-clip") == [f"lora_alpha 16.0, sam_ln_eps 1e-06, {ours}"]
    some = sizes(lora_alpha=16, sam_ln_eps=1e-6, clip_heads=4, clip_ln_eps=1e-5, clip_act="gelu", model_max_length=512)
    assert assumed(sizes=some, template="llava_v1") == ["dec_heads 8"]
    assert assumed(sizes=tiny / "config.json") == []


def test_outputs_are_never_overwritten(checkpoint, tiny, tmp_path):
    (tmp_path / "out.bin").write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="already exists"):
        weights.export(checkpoint, "official", tmp_path / "out.bin")
    assert (tmp_path / "out.bin").read_bytes() == b"precious"
    with pytest.raises(CheckpointError, match="already holds a model"):
        weights.export(checkpoint, "lisa", checkpoint)
    with pytest.raises(CheckpointError, match="layout onnx: unknown"):
        weights.export(checkpoint, "onnx", tmp_path / "x")
    with pytest.raises(CheckpointError, match="no place for LoRA"):
        weights.export(checkpoint, "lisa", tmp_path / "x", merge_lora=False)
