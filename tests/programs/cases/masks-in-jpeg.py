"""python masks-in-jpeg.py OUT: a mask saved as JPEG, and one with 1 as background."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
from case import TURTLE, refused, same
from PIL import Image, ImageDraw

from grounding_jax.data.datasets import open_dataset

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
Image.new("RGB", (600, 400), (90, 120, 60)).save(out / "1.png")
mask = Image.new("L", (600, 400))
ImageDraw.Draw(mask).polygon(list(zip(TURTLE[::2], TURTLE[1::2], strict=True)), fill=255)
mask.save(out / "m.png")
mask.save(out / "m.jpg", quality=75)
mask.convert("1").save(out / "bits.png")
Image.fromarray(np.where(np.asarray(mask) > 0, 255, 1).astype(np.uint8)).save(out / "ones.png")


def pixels(name):
    """How many pixels the mask has, and what was warned of."""
    line = {"image": "1.png", "expressions": [{"text": "the turtle", "masks": [name]}]}
    (out / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = int(open_dataset(out, f"jsonl|{name}.jsonl")[0].masks.sum())
    return found, [str(one.message).partition(": ")[2] for one in told if one.category is UserWarning]


drawn = int((np.asarray(mask) > 0).sum())
same("m.png", pixels("m.png"), (drawn, []))
same("bits.png", pixels("bits.png"), (drawn, []))
same("ones.png", pixels("ones.png"), (600 * 400, ["a mask of 'the turtle' covers the whole picture 600 x 400"]))
refused(lambda: pixels("m.jpg"), "m.jpg.jsonl, line 1", "m.jpg': it is not a format that is read here (PNG)")
