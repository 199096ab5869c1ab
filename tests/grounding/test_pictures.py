"""Pictures of every kind to RGB, and the renderings for SAM and CLIP against the release's."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from grounding_jax.data import picture_resize
from grounding_jax.files import pictures
from grounding_jax.models import normalize

pytestmark = pytest.mark.quick

# [24, 15, 3]: red grows downwards, green to the right.
GRADIENT = np.zeros((24, 15, 3), np.uint8)
GRADIENT[..., 0] = np.arange(0, 240, 10)[:, None]
GRADIENT[..., 1] = np.arange(0, 255, 17)[None, :]


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(width: int, height: int, depth: int, color: int, rows: bytes) -> bytes:
    """A PNG file built by hand: Pillow can't write 16 bits per colour, nor sizes that are wrong."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def stored(golden):
    return np.load(golden / "gsva" / "preprocess.npz"), json.loads((golden / "gsva" / "extra.json").read_text())


@pytest.mark.parametrize("index", range(5))
def test_renderings_are_those_of_the_release(golden, stored, index):
    arrays, facts = stored[0], stored[1]["preprocess"][index]
    image = pictures.open_picture(golden / "gsva" / "data" / facts["image"])
    assert list(image.shape[:2]) == facts["orig"]
    resized = picture_resize.resize_longest(image, 1024)
    assert list(resized.shape[:2]) == facts["resized"]
    np.testing.assert_array_equal(resized[::16, ::16], arrays[f"sam_u8_stride16_{index}"])
    assert resized.sum() == facts["sam_u8_sum"]
    clip = np.asarray(normalize.normalize_clip(picture_resize.clip_crop(image, 224)))
    np.testing.assert_allclose(clip[::8, ::8], arrays[f"clip224_stride8_{index}"].transpose(1, 2, 0), atol=1e-5)
    np.testing.assert_allclose([clip.mean(), clip.std()], [facts["clip_mean"], facts["clip_std"]], atol=1e-5)


def test_resized_sizes_are_those_of_the_release(stored):
    for case in stored[1]["resize_longest_1024"]:
        assert picture_resize.resized_size((case["h"], case["w"]), 1024) == (case["nh"], case["nw"])


def test_normalised_sam_input_is_that_of_the_release(golden):
    facts = np.load(golden / "gsva" / "eval_grefcoco_val_0.npz")
    folder = golden / "gsva" / "data" / "refer_seg" / "images" / "mscoco" / "images" / "train2014"
    image = pictures.open_picture(folder / "COCO_train2014_000000000001.jpg")
    padded, resized = picture_resize.sam_input(image, 128)
    assert list(resized) == facts["resize_list"][0].tolist()
    normalised = normalize.normalize_sam(padded[None], np.array([resized]))
    np.testing.assert_allclose(normalised, facts["images"].transpose(0, 2, 3, 1), atol=1e-5)
    clip = normalize.normalize_clip(picture_resize.clip_crop(image, 56))
    np.testing.assert_allclose(clip, facts["images_clip"][0].transpose(1, 2, 0), atol=1e-5)


def test_normalize_sam_clears_what_is_outside_each_picture():
    padded = np.full((2, 8, 8, 3), 200, np.uint8)
    normalised = np.asarray(normalize.normalize_sam(padded, np.array([[8, 3], [5, 8]])))
    assert normalised.dtype == np.float32
    inside = (normalised != 0).all(-1)
    expected = np.zeros((2, 8, 8), bool)
    expected[0, :, :3] = expected[1, :5] = True
    np.testing.assert_array_equal(inside, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 1000), (1000, 1), (1, 20_000), (20_000, 1), (5, 20_000), (224, 224)])
def test_extreme_sizes(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    padded, (height, width) = picture_resize.sam_input(image, 64)
    assert padded.shape == (64, 64, 3) and 64 in (height, width) and min(height, width) >= 1
    assert not padded[height:].any() and not padded[:, width:].any()
    assert picture_resize.clip_crop(image, 32).shape == (32, 32, 3)


def test_long_pictures_are_cropped_for_clip_as_if_they_were_rendered_whole(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (40, 1300, 3), np.uint8)
    whole = picture_resize.clip_crop(image, 32).astype(int)
    monkeypatch.setattr(picture_resize, "_MAX_CLIP_ASPECT", 1)
    assert np.abs(picture_resize.clip_crop(image, 32) - whole).max() <= 2


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "BMP"])
def test_lossless_formats(form):
    data = encoded(Image.fromarray(GRADIENT), form, **({"lossless": True} if form == "WEBP" else {}))
    np.testing.assert_array_equal(pictures.open_picture(data), GRADIENT)
    assert pictures.picture_size(data) == (24, 15)


def test_jpeg_and_cmyk():
    colors = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    for image in (Image.fromarray(colors), Image.fromarray(colors).convert("CMYK")):
        decoded = pictures.open_picture(encoded(image, "JPEG", quality=95))
        assert np.abs(decoded.astype(int) - colors).max() <= 4


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I"])
def test_every_mode_becomes_rgb(mode):
    decoded = pictures.open_picture(encoded(Image.new(mode, (5, 4)), "TIFF"))
    assert decoded.dtype == np.uint8 and decoded.shape == (4, 5, 3)


def test_16_bit_samples_keep_their_high_byte():
    samples = np.arange(0, 65536, 683, dtype=np.uint16).reshape(8, 12)
    grey = pictures.open_picture(encoded(Image.fromarray(samples)))
    np.testing.assert_array_equal(grey, np.repeat((samples >> 8)[..., None], 3, -1))
    color = np.stack([samples, samples[::-1], samples[:, ::-1]], -1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in color)
    np.testing.assert_array_equal(pictures.open_picture(png(12, 8, 16, 2, rows)), color >> 8)


def test_transparency_shows_white():
    half = Image.new("RGBA", (3, 2), (255, 0, 0, 128))
    np.testing.assert_array_equal(pictures.open_picture(encoded(half))[0, 0], (255, 127, 127))
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    decoded = pictures.open_picture(encoded(palette, transparency=0))
    np.testing.assert_array_equal(decoded[0], [(255, 255, 255), (40, 50, 60)])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.asarray(Image.fromarray(GRADIENT))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    np.testing.assert_array_equal(pictures.open_picture(data), GRADIENT)
    assert pictures.picture_size(data) == (24, 15)


def test_a_broken_exif_block_does_not_cost_the_picture():
    data = encoded(Image.fromarray(GRADIENT), "WEBP", lossless=True, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff")
    np.testing.assert_array_equal(pictures.open_picture(data.replace(b"MM\0*", b"\x84M\0*")), GRADIENT)


def test_unreadable_pictures_give_one_clear_line(tmp_path):
    whole = encoded(Image.fromarray(GRADIENT))
    cases = {
        "empty.png": (b"", "is empty"),
        "notes.txt": (b"no picture", "not a format"),
        "cut.png": (whole[: len(whole) // 2], "truncated"),
        "cut.jpg": (encoded(Image.fromarray(GRADIENT), "JPEG")[:-40], "truncated"),
        "no_pixels.png": (png(0, 4, 8, 2, b""), "not a format"),
        "lying.png": (png(200_000, 200_000, 8, 2, b""), "exceeds limit"),
        "float.tiff": (encoded(Image.new("F", (2, 2)), "TIFF"), "floats"),
    }
    for name, (data, problem) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=f"cannot read the picture .*{name}': .*{problem}") as caught:
            pictures.open_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="it is a folder"):
        pictures.open_picture(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no picture .*missing\.png"):
        pictures.open_picture(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="of 10 bytes"):
        pictures.open_picture(b"no picture")


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_pictures(wrong):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        picture_resize.resize_longest(wrong, 8)
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\]"):
        picture_resize.clip_crop(wrong, 8)
