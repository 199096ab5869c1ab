"""python checkpoint-nan.py OUT: a training that went to NaN; importing says so, and nothing of it is an answer."""

import contextlib
import io
import sys
from pathlib import Path

import torch
from case import GOLDEN, PHOTO, same

from gsva_jax.cli import main
from gsva_jax.weights import open_official

out = Path(sys.argv[1])
out.mkdir(parents=True)
for number in ("nan", "inf"):
    tensors, model, answers = torch.load(GOLDEN / "gsva-tiny-a.bin"), out / number, out / f"answers {number}"
    tensors["base_model.model.model.layers.1.mlp.up_proj.weight"][0, 0] = float(number)
    torch.save(tensors, out / f"{number}.bin")
    opened = open_official(out / f"{number}.bin", GOLDEN / "tiny-llava", sizes=GOLDEN / "config.json")
    line = "NaN or infinity in llama/layers/mlp/up/kernel: this model can't give answers"
    same("the report ends with that", opened.save(model)[-1], line)
    for command in (["segment", PHOTO, "dog"], ["ask", PHOTO, "What is it?"]):
        error = io.StringIO()
        with contextlib.redirect_stderr(error):
            status = main([str(word) for word in (*command, "--checkpoint", model, "--out", answers)])
        same(f"{command[0]} ends with", status, 2)
        same(error.getvalue(), "the answers of this model are not finite" in error.getvalue().splitlines()[-1], True)
    same("files written", list(answers.iterdir()), [])
