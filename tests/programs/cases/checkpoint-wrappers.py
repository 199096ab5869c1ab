"""python checkpoint-wrappers.py OUT: a GSVA as training programs leave it, read as the plain file, and said."""

import argparse
import json
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from case import GOLDEN, same

from grounding_jax.weights.layouts import open_layout
from gsva_jax.weights import open_official

out = Path(sys.argv[1])
out.mkdir(parents=True)
tensors = torch.load(GOLDEN / "gsva-tiny-a.bin")


def renamed(old, new):
    """The tensors with a part of their names in another spelling."""
    return {name.replace(old, new, 1): tensor for name, tensor in tensors.items()}


def padded(name, tensor):
    """Token rows with zeros behind them; other tensors as they are."""
    if not name.endswith(("embed_tokens.weight", "lm_head.weight")):
        return tensor
    return torch.cat([tensor, tensor.new_zeros(448 - len(tensor), tensor.shape[1])])


torch.save(renamed("base_model.", "module.base_model."), out / "ddp.bin")
torch.save(renamed("base_model.", "_orig_mod.base_model."), out / "compiled.bin")
torch.save(renamed(".layers.", "._fsdp_wrapped_module.layers."), out / "fsdp.bin")
deepspeed = {
    "module": OrderedDict(tensors),
    "param_shapes": [OrderedDict((name, tensor.shape) for name, tensor in tensors.items())],
    "ds_version": "0.14.0",
    "global_steps": 500,
    "args": argparse.Namespace(lr=3e-4),
}
torch.save(deepspeed, out / "mp_rank_00_model_states.pt")
torch.save({"state_dict": tensors, "epoch": 1}, out / "lightning.ckpt")
# zero_to_fp32.py writes a folder under the name of a file.
folder, names, weight_map = out / "zero" / "pytorch_model.bin", list(tensors), {}
folder.mkdir(parents=True)
for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), start=1):
    shard = f"pytorch_model-{number:05d}-of-00002.bin"
    torch.save({name: tensors[name] for name in part}, folder / shard)
    weight_map |= dict.fromkeys(part, shard)
(folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
torch.save({name: padded(name, tensor) for name, tensor in tensors.items()}, out / "padded.bin")
sam = torch.load(GOLDEN / "tiny_sam_vit_b.pth")
torch.save({"model": {f"module.{name}": tensor for name, tensor in sam.items()}, "epoch": 3}, out / "medsam.pth")


def differing(found, wanted):
    """The names of tensors that are not in both, or not bit for bit."""
    both = found.keys() & wanted.keys()
    equal = {name for name in both if np.array_equal(found[name].read(), wanted[name].read())}
    return sorted((found.keys() | wanted.keys()) - equal)


def opened(file):
    """A file, opened to be imported."""
    return open_official(file, GOLDEN / "tiny-llava", sizes=GOLDEN / "config.json")


plain = opened(GOLDEN / "gsva-tiny-a.bin")
for file, line in {
    "ddp.bin": "module.base_model.model.model.embed_tokens.weight as base_model.model.model.embed_tokens.weight",
    "compiled.bin": "as plain ones, _orig_mod.base_model.model.model.embed_tokens.weight as base_model.model.model.",
    "fsdp.bin": "_fsdp_wrapped_module.layers.0.self_attn.q_proj.weight as base_model.model.model.layers.0.self_attn",
    "mp_rank_00_model_states.pt": "left out: param_shapes, ds_version, global_steps, args",
    "lightning.ckpt": "lightning.ckpt; left out: epoch",
    "zero": "zero/pytorch_model.bin/pytorch_model.bin.index.json",
    "zero/pytorch_model.bin": None,
    "padded.bin": "dropped: 24 token rows that the tokenizer does not use",
}.items():
    found = opened(out / file)
    same(f"config of {file}", found.config, plain.config)
    same(f"tensors of {file} that differ", differing(found.leaves, plain.leaves), [])
    said = [one for one in found.report if one not in plain.report]
    same(f"lines about {file}: {said}", [line in one for one in said], [True] if line else [])
layout, found = open_layout(out / "medsam.pth", ("SAM",))
same("tensors that differ of a SAM", differing(found, open_layout(GOLDEN / "tiny_sam_vit_b.pth", ("SAM",))[1]), [])
same("lines about it", len(found.report), 2)
