"""python polygon-draws-nothing.py OUT: masks that are listed but draw no pixel, as exporters write them."""

import json
import shutil
import sys
from pathlib import Path

from case import PHOTO, TURTLE, refused, same

from grounding_jax.data.datasets import open_dataset

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
shutil.copy(PHOTO, out / "1.jpg")
W, H = 600, 400
BAD = {
    "box": ([[[338, 148, 479, 243]]], "looks like a box"),  # x0 y0 x1 y1 where a polygon belongs
    "odd": ([[TURTLE[:-1]]], "odd count of numbers, 11"),
    "pairs": ([[[338, 148], [479, 148], [479, 243]]], "points as pairs"),
    "relative": ([[[v / (H if i % 2 else W) for i, v in enumerate(TURTLE)]]], "fractions of the picture"),
    "outside": ([[[v + 2000 for v in TURTLE]]], "outside of the picture of 600 x 400"),
    "empty": ([[]], "is an empty list"),  # "segmentation": [] of an annotation with a box only
    "point": ([[[300, 200]]], "a polygon of 1 points"),
    "runs": ([{"size": [H, W], "counts": [H * W]}], "run lengths of 0 only"),
}


def first(name, masks):
    """The record of a list with one line."""
    line = {"image": "1.jpg", "expressions": [{"text": "the turtle", "masks": masks}]}
    (out / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    return open_dataset(out, f"jsonl|{name}.jsonl")[0]


same("good", first("good", [[TURTLE]]).masks.sum(), 7947)
same("absent", first("absent", []).rejected.tolist(), [True])
for name, (masks, words) in BAD.items():
    refused(
        lambda name=name, masks=masks: first(name, masks), f"{name}.jsonl, line 1", "'the turtle' has no pixel", words
    )
