"""python polygon-null-coordinate.py OUT: lists whose polygon has a coordinate that is null, NaN or far out."""

import json
import sys
from pathlib import Path

from case import refused
from PIL import Image

from grounding_jax.data.datasets import open_dataset

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
Image.new("RGB", (600, 400), (90, 120, 60)).save(out / "1.png")
PLACE = "line 1 at $.expressions[0].masks[0][0][0]: expected `float`, got `null`"
for name, first, words in (
    ("null", None, PLACE),
    ("large", 1e7, "line 1: a mask of 'the turtle' is damaged: number 0 of polygon 0 is 1e+07"),
    ("huge", 2e8, "number 0 of polygon 0 is 2e+08, far out of the picture of 600 x 400"),
    ("nan", float("nan"), "line 1 is not valid JSON: every number must be finite"),
    ("infinity", float("inf"), "line 1 is not valid JSON: every number must be finite"),
):
    line = {"image": "1.png", "expressions": [{"text": "the turtle", "masks": [[[first, 148, 338, 205, 361, 243]]]}]}
    (out / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    refused(lambda name=name: open_dataset(out, f"jsonl|{name}.jsonl")[0], f"{name}.jsonl", words)
