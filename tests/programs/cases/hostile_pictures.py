"""python hostile_pictures.py OUT: 400 and more odd picture files; each is pixels or one line that says why not."""

import functools
import io
import os
import pathlib
import random
import struct
import sys
import zlib

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))

from grounding_jax.files.pictures import open_picture, picture_size
from tests.programs.trials import run_trials

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
# Formats that Pillow knows and no camera or annotation tool writes; one of them starts Ghostscript.
REFUSED = ("EPS", "PDF", "ICO", "ICNS", "PCX", "TGA", "SGI", "DDS", "MSP", "XBM", "IM")


def scene(mode: str = "RGB", size: tuple[int, int] = (37, 23)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).convert(mode)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, data: bytes = b"", depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG whose header says what we like."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def damaged(good: dict[str, bytes]) -> dict[str, bytes]:
    """Each format cut off, with flipped bytes, with a doubled and a missing middle, and with rubbish behind it."""
    rng, cases = random.Random(0), {}
    for kind, data in good.items():
        for k in range(8):
            cases[f"{kind}-cut-{k}"] = data[: len(data) * k // 8]
        for k in range(28):
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 8))):
                changed[rng.randrange(min(len(data), 200 if k % 2 else len(data)))] = rng.randrange(256)
            cases[f"{kind}-flip-{k}"] = bytes(changed)
        third = len(data) // 3
        cases[f"{kind}-hole"] = data[:third] + data[2 * third :]
        cases[f"{kind}-doubled"] = data[:third] + data
        cases[f"{kind}-tail"] = data + bytes(1000)
    return cases


def strange() -> dict[str, bytes]:
    """Whole files of unusual kinds, headers that promise too much, and files that are no pictures."""
    cases = {
        f"mode-{mode}": encoded(scene(mode), "TIFF") for mode in ("1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "LAB")
    }
    cases |= {f"png-mode-{mode}": encoded(scene(mode), "PNG") for mode in ("1", "L", "P", "LA", "RGBA")}
    grey = np.linspace(0, 1, 600).reshape(20, 30)
    for dtype in ("uint16", "int32", "float32"):
        cases[f"tiff-{dtype}"] = encoded(Image.fromarray((grey * 30000).astype(dtype)), "TIFF")
    cases["tiff-nan"] = encoded(Image.fromarray(np.full((5, 6), np.nan, np.float32)), "TIFF")
    cases["png-16"] = encoded(Image.fromarray((grey * 65535).astype(np.uint16)), "PNG")
    cases["palette-transparent"] = encoded(scene("P"), "PNG", transparency=bytes(range(256)))
    cases["animated-gif"] = encoded(scene(), "GIF", save_all=True, append_images=[scene("L")] * 30)
    cases["animated-png"] = encoded(scene(), "PNG", save_all=True, append_images=[scene()] * 5)
    cases["pages"] = encoded(scene(), "TIFF", save_all=True, append_images=[scene()] * 5)
    cases["one-pixel"] = encoded(scene(size=(1, 1)), "PNG")
    cases["long"] = encoded(scene(size=(30000, 1)), "PNG")
    for orientation in (0, 3, 9, 65535):
        exif = Image.Exif()
        exif[0x112] = orientation
        cases[f"orientation-{orientation}"] = encoded(scene(), "JPEG", exif=exif)
    jpeg = encoded(scene(), "JPEG")
    cases["exif-broken"] = jpeg[:2] + b"\xff\xe1\x00\x10Exif\x00\x00" + b"\xff" * 8 + jpeg[2:]
    cases["exif-recursive"] = (
        jpeg[:2]
        + b"\xff\xe1\x00\x22Exif\x00\x00II*\x00\x08\x00\x00\x00"
        + bytes.fromhex("0100698704000100000008000000080000000000")
        + jpeg[2:]
    )
    for width, height in ((0, 5), (5, 0), (2**31 - 1, 1), (100_000, 100_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        cases[f"png-{width}x{height}"] = png(width, height)
    cases["png-bomb"] = png(30_000, 30_000, bytes(100_000_000))
    text = struct.pack(">I", 2) + b"zTXt" + b"a\0" + struct.pack(">I", 0)
    cases["png-bad-chunk"] = png(3, 3, bytes(30), extra=text)
    cases["png-depth-3"] = png(3, 3, bytes(30), depth=3)
    cases["gif-huge"] = b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\x00\x00\x00\x00\xff\xff\xff\xff\x00\x08\x02D\x01\x00;"
    cases["bmp-huge"] = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)
    cases["ppm-huge"] = b"P6 1000000 1000000 255\n"
    cases["ppm-digits"] = b"P6 " + b"9" * 5000 + b" 1 255\n"
    cases["tiff-loop"] = b"II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00"
    cases["tiff-many-tags"] = b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(12) * 65535
    for name, content in {
        "empty": b"", "text": b"hello", "html": b"<!doctype html><html>", "json": b"{}", "zeros": bytes(5000),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "zip": b"PK\x03\x04" + bytes(60),
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 5\n", "mac": b"\0\5\x16\7" + bytes(60),
        "heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(80), "pickle": b"\x80\x04N.",
        "psd": b"8BPS\0\1" + bytes(60),
    }.items():  # fmt: skip
        cases[f"no-picture-{name}"] = content
    for kind in REFUSED:
        mode = "1" if kind in ("MSP", "XBM") else "RGB"
        cases[f"refused-{kind}"] = encoded(scene(mode, (32, 32)), kind)
    return cases


def special(folder: pathlib.Path) -> list[pathlib.Path]:
    """What is no regular file, or is not there."""
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "dangling.png").symlink_to(folder / "nowhere")
    with open(folder / "sparse.png", "wb") as file:
        file.truncate(2**40)
    return [folder / f"{name}.png" for name in ("pipe", "folder", "zero", "loop", "dangling", "sparse", "missing")]


def opened(path: pathlib.Path) -> str:
    """The size of a picture; AssertionError where what is opened, or said, is not as it should be."""
    try:
        image = open_picture(path)
    except (ValueError, OSError) as error:
        assert path.name in str(error), f"the line does not name the file: {error}"
        assert path.stem not in FORMATS, f"a whole picture was refused: {error}"
        raise
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size, image.shape
    assert picture_size(path) == image.shape[:2], f"{picture_size(path)} is told, but it has {image.shape[:2]}"
    assert not path.stem.startswith("refused-"), "a format that is not on the list was opened"
    return str(image.shape[:2])


out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True)
files = special(out)
good = {kind: encoded(scene(), kind) for kind in FORMATS}
for name, content in {**good, **damaged(good), **strange()}.items():
    files.append(out / f"{name}.bin")
    files[-1].write_bytes(content)
run_trials({path.name: functools.partial(opened, path) for path in files}, out / "EXECUTED")
