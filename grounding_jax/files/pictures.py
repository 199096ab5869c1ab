"""Pictures and label maps of the usual formats as uint8 arrays."""

import contextlib
import io
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from PIL import Image, UnidentifiedImageError

from grounding_jax.files.regular import PackedFile, check_regular

# What is read, whatever the name says: formats of pictures without programs in them, as PostScript has.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# How the names of such pictures end.
SUFFIXES = (".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # Pillow's limit, against files that claim more than memory holds
_MOST_BYTES = 1 << 30  # of a file
_NEARLY_BLACK = 16  # of 255: what samples of 12 bits stay below that were saved as if they had 16

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


def open_picture(source: epath.PathLike | PackedFile | bytes) -> np.ndarray:
    """Decodes a picture file, or the bytes of one, into uint8 [H, W, 3] RGB.

    EXIF rotation is applied (as OpenCV does for the release), transparency shows white, 16-bit samples keep
    their high byte, CMYK and grey become RGB, an animation gives its first frame. A picture that is nearly black, as
    12 bits saved in 16 are, is given as it is, with a warning.

    Raises FileNotFoundError if there is no such file, ValueError if it is not a picture that can be read.
    """
    with opened(source, "picture") as image:
        decoded = _to_rgb(image)
        orientation = _orientation(image)
        picture = np.array(decoded.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else decoded)
    if picture.max() < _NEARLY_BLACK:
        warnings.warn(
            f"the picture {_name(source)} is nearly black: its brightest value is {picture.max()} of 255; samples of "
            "10, 12 or 14 bits must be scaled to all 16 before they are saved as such",
            stacklevel=2,
        )
    return picture


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

    Raises FileNotFoundError if there is no such file, ValueError if it is not a PNG of one 8-bit channel.
    """
    with opened(file, "label map", formats=("PNG",)) as image:  # others round the numbers, or exchange them
        if image.mode not in ("L", "P"):
            raise ValueError(f"it has mode {image.mode}, not one 8-bit channel")
        return np.array(image)


def picture_size(source: epath.PathLike | PackedFile | bytes) -> tuple[int, int]:
    """(height, width) of what `open_picture` returns, from the file's header; raises the same errors."""
    with opened(source, "picture") as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _EXCHANGING else (height, width)


def list_pictures(folder: epath.Path) -> tuple[list[epath.Path], int]:
    """The pictures directly in a folder, by name, and how many other files there are.

    The files "._NAME" that macOS puts beside pictures are no pictures.
    """
    files = sorted(path for path in folder.iterdir() if not path.is_dir())
    found = [path for path in files if path.suffix.lower() in SUFFIXES and not path.name.startswith("._")]
    return found, len(files) - len(found)


@contextlib.contextmanager
def opened(
    source: epath.PathLike | PackedFile | bytes, what: str, formats: Sequence[str] = FORMATS
) -> Iterator[Image.Image]:
    """Opens a picture of one of some formats, of which nothing is decoded yet; used as a context.

    Args:
        source: a file, or the bytes of one.
        what: it is, for errors.
        formats: as Pillow calls them.

    Raises FileNotFoundError if there is no such file, ValueError in one line for whatever goes wrong in the context.
    """
    data = _read(source, what)
    try:
        with Image.open(io.BytesIO(data), formats=formats) as image:
            if 0 in image.size:
                raise ValueError(f"its size is {image.size[0]} x {image.size[1]}")
            yield image
    except UnidentifiedImageError as error:
        raise ValueError(
            f"cannot read the {what} {_name(source)}: it is not a format that is read here ({', '.join(formats)})"
        ) from error
    except Exception as error:  # the decoders of Pillow raise whatever damaged bytes lead them to
        raise ValueError(f"cannot read the {what} {_name(source)}: {error or type(error).__name__}") from error


def _name(source: epath.PathLike | PackedFile | bytes) -> str:
    """What to call a picture in an error."""
    return f"of {len(source)} bytes" if isinstance(source, bytes) else f"'{source}'"


def _read(source: epath.PathLike | PackedFile | bytes, what: str) -> bytes:
    """The bytes of a picture."""
    name = _name(source)
    if isinstance(source, bytes | PackedFile):
        data = source if isinstance(source, bytes) else source.data
    else:
        try:
            path = check_regular(source)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no {what} {name}") from error
        except ValueError as error:
            raise ValueError(f"cannot read the {what} {name}: it is {str(error).partition(' is ')[2]}") from error
        if path.stat().length > _MOST_BYTES:
            raise ValueError(f"cannot read the {what} {name}: it has more than {_MOST_BYTES:,} bytes")
        data = path.read_bytes()
    if not data:
        raise ValueError(f"cannot read the {what} {name}: it is empty (0 bytes)")
    return data


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that is left to undo; 1 (upright) without one or in a broken EXIF block.

    Pixels may be fine where EXIF is broken. Pillow itself turns a TIFF.
    """
    if image.format == "TIFF":
        return 1
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # as in `opened`
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any Pillow mode to RGB; transparency shows white."""
    if image.mode == "F":
        raise ValueError("its samples are floats, save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        samples = np.asarray(image).astype(np.int64)
        image = Image.fromarray(np.clip(samples >> 8, 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")  # which would copy one that is RGB
