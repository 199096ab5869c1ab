"""python checkpoint-single-and-shards.py OUT: old shards and a newer single file, which transformers reads."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from case import GOLDEN, same

from gsva_jax.weights import export, open_lisa, open_official

out, sizes = Path(sys.argv[1]), GOLDEN / "config.json"
out.mkdir(parents=True)
opened = open_official(GOLDEN / "gsva-tiny-a.bin", GOLDEN / "tiny-llava", sizes=sizes)
opened.save(out / "model")
lisa = out / "lisa"
export(out / "model", "lisa", lisa)
tensors = {}
for shard in sorted(set(json.loads((lisa / "pytorch_model.bin.index.json").read_text())["weight_map"].values())):
    tensors |= torch.load(lisa / shard)
tensors["model.text_hidden_fcs.0.2.bias"] += 1
torch.save(tensors, lisa / "pytorch_model.bin")

found = open_lisa(lisa, GOLDEN / "tiny-llava", GOLDEN / "tiny-clip", sizes)
old, new = (one.leaves["prompt_mlp/fc2/bias"].read() for one in (opened, found))
same("is the newer one", np.array_equal(old + 1, new), True)
line = f"read: {lisa}/pytorch_model.bin; left out: pytorch_model.bin.index.json, as transformers does"
same(line, line in found.report, True)
