"""What is taken for a picture, a text or a list of texts, and what is refused in one line."""

import numpy as np
import pytest
from PIL import Image

from grounding_jax.files.pictures import open_picture
from grounding_jax.inference.inputs import as_pairs, as_picture, as_text, as_texts

pytestmark = pytest.mark.quick

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 3)).astype(np.uint8)


def saved(image: Image.Image, path, **options) -> np.ndarray:
    """What the file of a Pillow picture shows."""
    image.save(path, **options)
    return open_picture(path)


def test_arrays_and_paths(tmp_path):
    assert as_picture(PIXELS) is PIXELS
    np.testing.assert_array_equal(as_picture(np.asfortranarray(PIXELS)), PIXELS)
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    for place in (path, str(path)):
        np.testing.assert_array_equal(as_picture(place), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pillow_picture_shows_what_its_file_does(tmp_path, mode):
    image = Image.fromarray(PIXELS)
    if mode == "I;16":
        image = Image.fromarray((PIXELS[..., 0].astype(np.uint16) << 8) + 9)
    elif mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(PIXELS[..., 1]))
        image = image.convert(mode)
    else:
        image = image.convert(mode)
    np.testing.assert_array_equal(as_picture(image), saved(image, tmp_path / "picture.png"))


def test_a_transparent_colour_and_cmyk(tmp_path):
    image = Image.fromarray(PIXELS).convert("P")
    image.info["transparency"] = image.getpixel((0, 0))
    np.testing.assert_array_equal(as_picture(image)[0, 0], [255, 255, 255])
    np.testing.assert_array_equal(as_picture(image), saved(image, tmp_path / "picture.png"))
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    np.testing.assert_array_equal(as_picture(cmyk), saved(cmyk, tmp_path / "picture.tiff"))


def test_a_photograph_stands_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    expected = saved(Image.fromarray(PIXELS), tmp_path / "picture.jpg", exif=exif, quality=95)
    assert expected.shape == (5, 7, 3)
    with Image.open(tmp_path / "picture.jpg") as image:
        np.testing.assert_array_equal(as_picture(image), expected)


@pytest.mark.parametrize(
    ("picture", "kind", "described"),
    [
        (PIXELS / 255, TypeError, r"float64 \[7, 5, 3\]"),
        (PIXELS.tolist(), TypeError, r"int64 \[7, 5, 3\]"),
        (None, TypeError, "of type NoneType"),
        ([Image.fromarray(PIXELS)], ValueError, r"uint8 \[1, 7, 5, 3\]"),
        (PIXELS[..., 0], ValueError, r"uint8 \[7, 5\]"),
        (PIXELS[None], ValueError, r"uint8 \[1, 7, 5, 3\]"),
        (PIXELS[:0], ValueError, r"uint8 \[0, 5, 3\]"),
        (PIXELS.transpose(2, 0, 1), ValueError, r"uint8 \[3, 7, 5\]"),
        (Image.fromarray(PIXELS).convert("HSV"), ValueError, "a Pillow picture of mode HSV can't be read"),
    ],
)
def test_what_is_no_picture(picture, kind, described):
    with pytest.raises(kind, match=described) as raised:
        as_picture(picture)
    assert "\n" not in str(raised.value)


def test_texts():
    assert as_texts("the dog", "an expression") == ["the dog"]
    assert as_texts(("a", "b"), "an expression") == ["a", "b"]
    for wrong, said in (
        (5, "a text, and several are a list of texts, not of type int"),
        (["a", 5], "a text, not of type int"),
    ):
        with pytest.raises(TypeError, match=f"an expression is {said}"):
            as_texts(wrong, "an expression")
    with pytest.raises(TypeError, match="a caption is a text, not of type bytes"):
        as_text(b"a", "a caption")
    with pytest.raises(TypeError, match=r"request 1 is not a pair \(picture, expressions\) but of type ndarray"):
        as_pairs([(PIXELS, "a"), PIXELS], "expressions")
