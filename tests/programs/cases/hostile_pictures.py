"""python hostile_pictures.py OUT: 400 odd pictures: all formats, and bytes changed, cut off or put together."""

import io
import random
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
from case import Trials
from etils import epath
from PIL import Image

from grounding_jax.files.id_maps import open_id_map
from grounding_jax.files.pictures import open_label_map, open_picture, picture_size

warnings.simplefilter("ignore")  # Pillow's, of which there are many here
out = Path(sys.argv[1])
out.mkdir(parents=True)
trial = Trials()
source = random.Random(0)
pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def encoded(form, mode="RGB", **options):
    """A picture in a format."""
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def png(width, height, data=b""):
    """A PNG that claims a size."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def read(data, name):
    """What all three readers make of a file; each may refuse it."""
    file = epath.Path(out / name)
    file.write_bytes(data)
    ended = []
    for reader in (open_picture, picture_size, open_label_map, open_id_map):
        try:
            ended.append(np.shape(reader(file)))
        except (ValueError, OSError) as error:
            if "\n" in str(error) or name not in str(error):
                raise TypeError(f"not a line that names the file: {error}") from error
            ended.append("refused")
    file.unlink()
    return ended


WHOLE = {form: encoded(form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")}
WHOLE |= {f"TIFF_{c}": encoded("TIFF", compression=c) for c in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits")}
WHOLE |= {f"PNG_{mode}": encoded("PNG", mode) for mode in ("1", "L", "P", "RGBA", "LA")}
WHOLE |= {"JPEG_CMYK": encoded("JPEG", "CMYK"), "TIFF_F": encoded("TIFF", "F"), "ICO": encoded("ICO")}
WHOLE |= {"EPS": encoded("EPS"), "PDF": encoded("PDF"), "TGA": encoded("TGA"), "PCX": encoded("PCX")}
ODD = {
    "bomb": png(60_000, 60_000),
    "side": png(2**31 - 1, 1),
    "none": png(0, 0),
    "script": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "apple": b"\0\5\x16\7" + bytes(60),
    "zeros": bytes(10_000),
}
for name, data in {**WHOLE, **ODD}.items():
    trial(f"whole_{name}", lambda data=data, name=name: read(data, name))
for k in range(375):
    name, data = source.choice(sorted(WHOLE.items()))
    changed = bytearray(data)
    kind = source.choice(("flip", "flip", "cut", "joined", "grown"))
    if kind == "flip":
        for _ in range(source.randrange(1, 20)):
            changed[source.randrange(min(len(changed), source.choice((40, 200, len(changed)))))] = source.randrange(256)
    elif kind == "cut":
        del changed[source.randrange(len(changed)) :]
    elif kind == "joined":
        changed[source.randrange(len(changed)) :] = source.choice(list(WHOLE.values()))
    else:
        at = source.randrange(len(changed))
        changed[at:at] = source.randbytes(source.randrange(1, 50))
    trial(f"{kind}_{k}_{name}", lambda data=bytes(changed), k=k: read(data, f"{k}.png"))
trial.finish()
