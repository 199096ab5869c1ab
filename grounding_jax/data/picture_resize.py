"""Pictures at the sizes that SAM and CLIP take, in uint8."""

import numpy as np
from PIL import Image

# CLIP's rendering is not built whole where it is longer than this multiple of the crop: it may be gigabytes.
_MAX_CLIP_ASPECT = 32


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


def _check_image(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is uint8 [H, W, 3] with at least one pixel."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"a picture must be uint8 [H, W, 3] RGB, got {image.dtype} {list(image.shape)}")
