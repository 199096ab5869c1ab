"""A picture with an EXIF orientation, in each format: what open_picture gives is what a viewer shows."""

import io

import numpy as np
from case import same
from PIL import Image, ImageOps

from grounding_jax.files.pictures import open_picture, picture_size

stored = np.zeros((40, 64, 3), np.uint8)
stored[:16, :24] = (250, 20, 20)
stored[28:, 40:] = (20, 20, 250)
for form in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF"):
    for orientation in range(1, 9):
        exif, file = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(file, form, exif=exif, quality=95)
        shown = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))).convert("RGB"))
        got = open_picture(file.getvalue())
        near = got.shape == shown.shape and bool(np.abs(got.astype(int) - shown).mean() < 12)
        same(f"{form} {orientation}", (near, picture_size(file.getvalue())), (True, shown.shape[:2]))
