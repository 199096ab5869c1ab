"""Pictures whose pixels are the numbers of segments: COCO's panoptic PNGs and PNGs of one channel (spec gella f)."""

import io
from collections.abc import Iterable

import numpy as np
from etils import epath
from PIL import Image

from grounding_jax.files.pictures import opened
from grounding_jax.files.regular import File

VOID = 0  # the number of pixels that belong to no segment
_WEIGHTS = np.array([1, 256, 256**2], np.int32)  # a colour means R + 256 G + 65536 B
_LARGEST = 256**3 - 1
_MODES = ("1", "L", "P", "I;16", "I", "RGB")


def open_id_map(file: File) -> np.ndarray:
    """Decodes a PNG of numbers into int32 [H, W]; 0 is no segment.

    A colour means R + 256 G + 65536 B, as in COCO's panoptic PNGs. Of one channel, of 1 to 16 bits and with a palette
    or without, the numbers are those of the file.

    Raises FileNotFoundError if there is no such file, ValueError if it is not such a PNG.
    """
    with opened(file, "PNG of segments", formats=("PNG",)) as image:
        values, mode = np.array(image), image.mode
        if mode not in _MODES:
            raise ValueError(f"it has mode {mode}; it must be RGB, or of one channel")
    return values.astype(np.int32) @ _WEIGHTS if mode == "RGB" else values.astype(np.int32)


def encode_id_map(ids: np.ndarray) -> bytes:
    """The PNG in RGB that `open_id_map` reads as these numbers.

    Args:
        ids: int [H, W], 0 where there is no segment.

    Raises ValueError if a number is negative or has more than 24 bits.
    """
    if ids.min() < 0 or ids.max() > _LARGEST:
        raise ValueError(f"numbers of segments must be in 0..{_LARGEST}, not in {ids.min()}..{ids.max()}")
    png = io.BytesIO()
    Image.fromarray((ids[..., None] // _WEIGHTS % 256).astype(np.uint8)).save(png, "PNG")
    return png.getvalue()


def check_segments(ids: np.ndarray, listed: Iterable[int], file: File | str, where: str) -> None:
    """Checks that a PNG and the list of its segments belong together.

    Args:
        ids: int [H, W], from `file`.
        listed: the numbers of all segments.
        file: the PNG, for the error.
        where: the list of segments, for the error.

    Raises ValueError if one has a segment that the other lacks.
    """
    present, listed = set(np.unique(ids).tolist()) - {VOID}, set(listed)
    if present - listed:
        raise ValueError(f"{file} has the segment {min(present - listed)}, which {where} lacks")
    if listed - present:
        raise ValueError(f"{where} has the segment {min(listed - present)}, of which {file} has no pixel")


def label_folders(file: epath.Path) -> tuple[epath.Path, ...]:
    """Where the PNGs of a panoptic json may lie.

    In a folder of the json's name, as in COCO's archive; in the folder that the benchmark PNG has for them; or beside
    the json.
    """
    split = file.stem.removeprefix("panoptic_")
    return file.parent / file.stem, file.parent / "panoptic_segmentation" / split, file.parent


def segment_files(png: epath.Path) -> tuple[epath.Path, ...]:
    """Where the json with the segments of a PNG may lie: of the PNG alone, or of its folder (`label_folders`)."""
    folder = png.parent
    return (
        png.with_suffix(".json"),
        folder.parent / f"{folder.name}.json",
        folder.parent.parent / f"panoptic_{folder.name}.json",
    )
