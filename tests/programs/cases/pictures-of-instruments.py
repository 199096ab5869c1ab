"""python pictures-of-instruments.py OUT: the packaged scene as cameras and game engines store it."""

import sys
import warnings
from pathlib import Path

import numpy as np
from case import PHOTO, same
from etils import epath
from PIL import Image

from grounding_jax.files.pictures import list_pictures, open_picture

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
grey = np.asarray(Image.open(PHOTO).convert("L")).astype(np.uint16)
Image.open(PHOTO).convert("RGB").save(out / "plain.png")
for ending in ("png", "tif"):
    Image.fromarray(grey * 16).save(out / f"12_bits_in_16.{ending}")
    Image.fromarray(grey * 257).save(out / f"16_bits.{ending}")
(out / "._plain.png").write_bytes(b"\0\5\x16\7" + bytes(60))
found, others = list_pictures(epath.Path(out))
same("pictures and others", (len(found), others), (5, 1))
for picture in found:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        open_picture(picture)
    same(picture.name, ["is nearly black" in str(one.message) for one in told], [True] * picture.name.startswith("12"))
