"""What people hand to a model in memory: pictures, texts and lists of texts, in the forms in which they have them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from grounding_jax.files.pictures import open_picture

Picture = np.ndarray | Image.Image | os.PathLike | str
_FORMS = "a picture is uint8 [H, W, 3] RGB, a Pillow picture, or the path of a file"


def as_picture(picture: Picture) -> np.ndarray:
    """A picture as uint8 ``[H, W, 3]`` RGB; a Pillow picture becomes what its file does, see `open_picture`.

    Raises:
        TypeError: it is nothing of the kind, or has other numbers than uint8.
        ValueError: it has another shape, or its file can't be read.
        FileNotFoundError: there is no such file.
    """
    if isinstance(picture, str | os.PathLike):
        return open_picture(picture)
    if isinstance(picture, Image.Image):
        return open_picture(_as_file(picture))
    array = np.asarray(picture)
    if array.dtype != np.uint8:
        raise TypeError(f"{_FORMS}, not {_described(picture, array)}")
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ValueError(f"{_FORMS}, not {_described(picture, array)}")
    return array


def as_text(text: str, what: str) -> str:
    """A text; TypeError if it is something else.

    Args:
        text: to be checked.
        what: it is, with its article.
    """
    if not isinstance(text, str):
        raise TypeError(f"{what} is a text, not {_described(text)}")
    return text


def as_texts(texts: str | Iterable[str], what: str) -> list[str]:
    """Texts as a list, a lone one as a list of one; TypeError if there is something else; arguments as of `as_text`."""
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable):
        raise TypeError(f"{what} is a text, and several are a list of texts, not {_described(texts)}")
    return [as_text(text, what) for text in texts]


def as_pairs(requests: Sequence[tuple[Any, Any]], what: str) -> Sequence[tuple[Any, Any]]:
    """Requests, each a picture and texts; TypeError names the first that is not."""
    for place, request in enumerate(requests):
        if not isinstance(request, tuple | list) or len(request) != 2:
            raise TypeError(f"request {place} is not a pair (picture, {what}) but {_described(request)}")
    return requests


def _as_file(picture: Image.Image) -> bytes:
    """The bytes of a file without loss."""
    upright = ImageOps.exif_transpose(picture)
    if "transparency" in upright.info:
        upright = upright.convert("RGBA")  # TIFF has no transparent colour
    file = io.BytesIO()
    try:
        upright.save(file, "TIFF")
    except OSError as error:
        raise ValueError(f"a Pillow picture of mode {picture.mode} can't be read: convert it to RGB") from error
    return file.getvalue()


def _described(value: object, array: np.ndarray | None = None) -> str:
    """What somebody gave."""
    if array is not None and array.dtype.kind in "biufc":
        return f"{array.dtype} {list(array.shape)}"
    return f"of type {type(value).__name__}"
