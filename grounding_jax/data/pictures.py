"""Pictures of any common format as the uint8 arrays that SAM and CLIP take, and their normalisation."""

import io
import struct

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from grounding_jax.data.files import PackedFile

# Per-channel mean and standard deviation of RGB, in units of 0..255 (SAM) and of 0..1 (CLIP); spec gsva c.1.
SAM_MEAN = (123.675, 116.28, 103.53)
SAM_STD = (58.395, 57.12, 57.375)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# The EXIF tag of the orientation, what undoes its values, and the values that exchange height and width.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXCHANGING = (5, 6, 7, 8)

# CLIP's rendering is not built whole where it is longer than this multiple of the crop: it may be gigabytes.
_MAX_CLIP_ASPECT = 32


def open_picture(source: epath.PathLike | PackedFile | bytes) -> np.ndarray:
    """Decodes a picture file, or the bytes of one, into uint8 [H, W, 3] RGB.

    EXIF rotation is applied (as OpenCV does for the release), transparency shows white, 16-bit samples keep
    their high byte, CMYK and grey become RGB, an animation gives its first frame.

    Raises FileNotFoundError if there is no such file, ValueError if it is not a picture that can be read.
    """
    data, name = _read(source)
    with _open(data, name) as image:
        orientation = _orientation(image)
        try:
            decoded = _to_rgb(image, name)
        except (OSError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the picture {name}: {error}") from error
        return np.array(decoded.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else decoded)


def open_annotated(image: PackedFile | epath.Path, size: tuple[int, int]) -> np.ndarray:
    """`open_picture` of a record whose annotation is for a picture of (H, W); raises ValueError if it has another."""
    picture = open_picture(image)
    if picture.shape[:2] != tuple(size):
        sizes = [" x ".join(map(str, shape)) for shape in (picture.shape[:2], size)]
        raise ValueError(f"{image} has {sizes[0]} pixels, but its annotation is for {sizes[1]}")
    return picture


def open_label_map(file: epath.PathLike | PackedFile) -> np.ndarray:
    """Decodes a label map, a PNG with the number of a class for each pixel, into uint8 [H, W].

    A palette is only there to look at: the numbers are those of the file.

    Raises FileNotFoundError if there is no such file, ValueError if it is not a picture of one 8-bit channel.
    """
    data, name = _read(file)
    with _open(data, name) as image:
        if image.mode not in ("L", "P"):
            raise ValueError(f"cannot read the label map {name}: it has mode {image.mode}, not one 8-bit channel")
        try:
            image.load()
        except (OSError, SyntaxError, struct.error) as error:
            raise ValueError(f"cannot read the label map {name}: {error}") from error
        return np.array(image)


def picture_size(source: epath.PathLike | PackedFile | bytes) -> tuple[int, int]:
    """(height, width) of what `open_picture` returns, from the file's header; raises the same errors."""
    data, name = _read(source)
    with _open(data, name) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _EXCHANGING else (height, width)


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) after making the longest side `side`, rounded half up and never 0 (spec gsva c.1)."""
    scale = side * 1.0 / max(size)
    height, width = (max(1, int(length * scale + 0.5)) for length in size)
    return height, width


def resize_longest(image: np.ndarray, side: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """Resizes uint8 [H, W, 3] so that its longest side is `side`, with Pillow's antialiased filters."""
    _check_image(image)
    height, width = resized_size(image.shape[:2], side)
    return np.array(Image.fromarray(image).resize((width, height), resample))


def sam_input(image: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """Resizes uint8 [H, W, 3] for SAM, bilinear, and pads it with zeros at the right and the bottom (spec gsva c.1).

    Returns the padded uint8 [side, side, 3] and the (height, width) that the picture takes up in it.
    """
    return _padded(resize_longest(image, side), side)


def clip_input(image: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    """The same for CLIP where it is to see the whole picture, bicubic (spec gella A8)."""
    return _padded(resize_longest(image, side, Image.Resampling.BICUBIC), side)


def _padded(resized: np.ndarray, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    height, width = resized.shape[:2]
    padded = np.zeros((side, side, 3), np.uint8)
    padded[:height, :width] = resized
    return padded, (height, width)


def clip_crop(image: np.ndarray, size: int) -> np.ndarray:
    """Renders uint8 [H, W, 3] for CLIP -> uint8 [size, size, 3], as Hugging Face's CLIPImageProcessor.

    Bicubic resize of the shortest side to `size` (the longer one is truncated), then the centre crop (spec
    gsva c.1).
    """
    _check_image(image)
    height, width = image.shape[:2]
    short, long = min(height, width), max(height, width)
    new_long = int(size * long / short)
    new_height, new_width = (size, new_long) if height <= width else (new_long, size)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    picture = Image.fromarray(image)
    if new_long <= _MAX_CLIP_ASPECT * size:
        rendered = picture.resize((new_width, new_height), Image.Resampling.BICUBIC)
        return np.array(rendered.crop((left, top, left + size, top + size)))
    # Only what the crop shows is resized. Pillow's box is single precision, so a few pixels differ by 1 or 2.
    scale_x, scale_y = width / new_width, height / new_height
    box = (left * scale_x, top * scale_y, (left + size) * scale_x, (top + size) * scale_y)
    return np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box=box))


def normalize_sam(padded: jax.Array, resized: jax.Array) -> jax.Array:
    """Normalises SAM's input: uint8 [B, S, S, 3], inside sizes int [B, 2] -> float32 [B, S, S, 3].

    Pixels outside the picture are zero after normalisation, as the release pads last (spec gsva c.1).
    """
    return _only_inside((padded.astype(jnp.float32) - jnp.array(SAM_MEAN)) / jnp.array(SAM_STD), resized)


def normalize_clip(image: jax.Array, resized: jax.Array | None = None) -> jax.Array:
    """Normalises CLIP's input: uint8 [..., 3] -> float32 of the same shape (spec gsva c.1).

    Where a batch [B, S, S, 3] comes with inside sizes, int [B, 2], the pixels outside are zero (spec gella A8).
    """
    values = (image.astype(jnp.float32) / 255.0 - jnp.array(CLIP_MEAN)) / jnp.array(CLIP_STD)
    return values if resized is None else _only_inside(values, resized)


def _only_inside(values: jax.Array, resized: jax.Array) -> jax.Array:
    """Zeros outside of the pictures: float32 [B, S, S, 3], int [B, 2] -> float32 [B, S, S, 3]."""
    rows = jnp.arange(values.shape[1])[None, :] < resized[:, :1]
    columns = jnp.arange(values.shape[2])[None, :] < resized[:, 1:]
    return jnp.where((rows[:, :, None] & columns[:, None, :])[..., None], values, 0.0)


def _read(source: epath.PathLike | PackedFile | bytes) -> tuple[bytes, str]:
    """The bytes of a picture and what to call it in an error."""
    if isinstance(source, bytes):
        data, name = source, f"of {len(source)} bytes"
    elif isinstance(source, PackedFile):
        data, name = source.data, f"'{source}'"
    else:
        path = epath.Path(source)
        name = f"'{path}'"
        if not path.exists():
            raise FileNotFoundError(f"there is no picture {name}")
        if path.is_dir():
            raise ValueError(f"cannot read the picture {name}: it is a folder")
        data = path.read_bytes()
    if not data:
        raise ValueError(f"cannot read the picture {name}: it is empty (0 bytes)")
    return data, name


def _open(data: bytes, name: str) -> Image.Image:
    """Opens the header, raising the one-line errors of `open_picture`."""
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot read the picture {name}: not a format that Pillow knows (JPEG, PNG, WebP ...)"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read the picture {name}: {error}") from error
    if 0 in image.size:
        raise ValueError(f"cannot read the picture {name}: its size is {image.size[0]} x {image.size[1]}")
    return image


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) without one or in a broken EXIF block, since pixels may be fine."""
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except (OSError, SyntaxError, ValueError, struct.error):
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """Converts any Pillow mode to RGB; transparency shows white."""
    if image.mode == "F":
        raise ValueError(f"cannot read the picture {name}: its samples are floats, save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(samples >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy one that is RGB


def _check_image(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is uint8 [H, W, 3] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture must be uint8 [H, W, 3] RGB, got {image.dtype} {list(image.shape)}")
