"""A LLaVA-1.5 that fits into a test: the golden one in both layouts, with a vocabulary, beside a Mask2Former."""

import json
import pathlib
import shutil

import numpy as np
import sentencepiece
import torch

from gella_jax import prompts
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import LazyTensor

PIECES = 127  # of the vocabulary; the golden LLaVA reads id 127 as the picture


def write_files(root: pathlib.Path, golden: pathlib.Path) -> pathlib.Path:
    """`hf` and `original`: the golden LLaVA in both layouts, with a vocabulary; `m2f.pth` and `sizes.json`."""
    text = "\n".join((*prompts.NOUN_QUESTIONS, prompts.TEMPLATES["vicuna_v1"].first, "ASSISTANT"))
    (root / "text.txt").write_text(text)
    sentencepiece.SentencePieceTrainer.train(
        input=str(root / "text.txt"), model_prefix=str(root / "tokenizer"), vocab_size=PIECES, model_type="bpe",
        minloglevel=2,
    )  # fmt: skip
    for name in ("hf", "original"):
        (root / name).mkdir()
        shutil.copy(root / "tokenizer.model", root / name)
    source = golden / "gella" / "llava15"
    shutil.copy(source / "model.safetensors", root / "hf")
    shutil.copy(source / "config.json", root / "hf")
    flags = dict(lstrip=False, normalized=False, rstrip=False, single_word=False, special=True)
    contents = {0: "<unk>", 1: "<s>", 2: "</s>", PIECES: "<image>"}
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "image_token": "<image>"}
    added = {str(i): {"content": content, **flags} for i, content in contents.items()}
    (root / "hf" / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": added, **names})
    )
    torch.save(original_names(state(source)), root / "original" / "pytorch_model.bin")
    facts = json.loads((source / "config.json").read_text())
    public = facts["text_config"] | {"mm_vision_select_layer": -2, "mm_projector_type": "mlp2x_gelu"}
    (root / "original" / "config.json").write_text(json.dumps(public))
    torch.save({"model": tensors(state(golden / "gella" / "m2f_d2_entity"))}, root / "m2f.pth")
    (root / "sizes.json").write_text(json.dumps({"nheads": 4, "side": 64, "resoblend_dim": 16}))
    return root


def state(path) -> dict[str, np.ndarray]:
    return {key: tensor.read() for key, tensor in open_weights(path).items()}


def tensors(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


def original_names(hub: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Hugging Face's names to those of LLaVA's release, which has no tower and no row for the picture."""
    out = {}
    for key, tensor in tensors(hub).items():
        key = key.replace("multi_modal_projector.linear_1", "model.mm_projector.0")
        key = key.replace("multi_modal_projector.linear_2", "model.mm_projector.2").removeprefix("language_model.")
        if not key.startswith("vision_tower."):
            out[key] = tensor[:PIECES] if "embed_tokens" in key or "lm_head" in key else tensor
    return out


def rewritten(source: pathlib.Path, out: pathlib.Path, **changes) -> pathlib.Path:
    """A copy of a LLaVA folder with a new state dict (`weights`) or other keys in its config.json."""
    ignored = shutil.ignore_patterns("pytorch_model.bin", "model.safetensors") if "weights" in changes else None
    shutil.copytree(source, out, ignore=ignored)
    if "weights" in changes:
        torch.save(tensors(changes.pop("weights")), out / "pytorch_model.bin")
    if changes:
        public = json.loads((out / "config.json").read_text()) | changes
        (out / "config.json").write_text(json.dumps(public))
    return out


def shape_only(shape: tuple[int, ...]) -> LazyTensor:
    """Zeros of any size, which take no memory."""
    return LazyTensor(tuple(shape), np.dtype(np.float32), lambda: np.broadcast_to(np.zeros((), np.float32), shape))
