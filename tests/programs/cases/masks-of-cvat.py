"""python masks-of-cvat.py OUT: a COCO export in which brush masks have iscrowd 1, polygons 0."""

import contextlib
import io
import json
import sys
from pathlib import Path

import numpy as np
from case import refused, same
from etils import epath
from PIL import Image

from gella_jax.cli.masks import read_named
from grounding_jax.data.entity_masks import read_masks

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
H, W = 50, 70


def brush(x):
    """Run lengths of a brush."""
    return {"counts": [x * H + 10, 20, 30] + [20, 30] * 8 + [20, (W - x - 10) * H + 20], "size": [H, W]}


def write(name, *masks):
    """A json of (mask, iscrowd)."""
    entries = [
        {"id": i, "image_id": 1, "category_id": 1, "segmentation": mask, "iscrowd": crowd}
        for i, (mask, crowd) in enumerate(masks, start=1)
    ]
    content = {"images": [{"id": 1, "file_name": "picture.png", "height": H, "width": W}], "annotations": entries}
    (out / name).write_text(json.dumps({**content, "categories": [{"id": 1, "name": "dog"}]}))
    return out / name


polygon = [[5, 5, 25, 5, 25, 35, 5, 35]]
mixed = read_masks(write("mixed.json", (polygon, 0), (brush(30), 1), (brush(50), 1)), (H, W))
same("masks and crowds", (len(mixed.masks), mixed.crowds), (1, 2))
Image.new("RGB", (W, H), (90, 120, 60)).save(out / "picture.png")
picture, masks = str(out / "picture.png"), str(out / "mixed.json")
with contextlib.redirect_stderr(io.StringIO()) as said:
    read_named(masks, np.asarray(Image.open(picture)), epath.Path(picture))
same("said", said.getvalue(), f"{picture}: masks left out: 2, crowds (iscrowd 1)\n")
crowds = write("crowds.json", (brush(30), 1), (brush(50), 1))
refused(lambda: read_masks(crowds, (H, W)), "there is not one mask in", "2 of crowds (iscrowd 1)")
