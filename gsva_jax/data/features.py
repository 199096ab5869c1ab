"""SAM's image features on disk: the encoder is frozen, so a training may compute them once a picture.

The numbers stay the same; a step is cheaper by the encoder's forward pass, a picture takes 2 MiB with SAM's sizes in
bfloat16. Files are named by the content of the pictures, below a folder that is named by all else that features depend
on: the model, the dtype, and the code that reads pictures and encodes them.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Sequence

import jax
import ml_dtypes
import numpy as np
from etils import epath
from jax.sharding import Mesh

from grounding_jax.data import picture_resize
from grounding_jax.data.picture_resize import sam_input
from grounding_jax.files import digests
from grounding_jax.files import pictures as decoding
from grounding_jax.files.arrays import read_array, write_array
from grounding_jax.files.pictures import open_picture
from grounding_jax.files.regular import File
from grounding_jax.models import normalize, sam
from grounding_jax.sharding.hosts import is_first, wait_for_all
from grounding_jax.sharding.mesh import global_batch, local_rows
from grounding_jax.terminal import tracked
from gsva_jax import model
from gsva_jax.config import GsvaConfig

log = logging.getLogger(__name__)

_BITS = {"bfloat16": np.uint16, "float32": np.uint32}  # NumPy's files know no bfloat16


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """Where the features of pictures are.

    Attributes:
        folder: folder of all of them, local or shared by all hosts.
        digest: digest of the model whose SAM they are from.
        dtype: "bfloat16" or "float32".
    """

    folder: str
    digest: str
    dtype: str

    def place(self, picture: File) -> epath.Path:
        """The file of a picture; there need not be one."""
        name, code = digests.of_file(picture), digests.of_code(decoding, picture_resize, normalize, sam)
        return epath.Path(self.folder) / f"{self.digest}-{code}-{self.dtype}" / name[:2] / f"{name}.npy"

    def read(self, picture: File) -> np.ndarray:
        """``[h, w, C]``.

        Raises:
            FileNotFoundError: the picture has none.
        """
        file = self.place(picture)
        if not file.exists():
            raise FileNotFoundError(f"{picture} has no features in {file.parent.parent}")
        return read_array(file).view(np.dtype(getattr(ml_dtypes, self.dtype, np.float32)))

    def write(self, file: epath.Path, features: np.ndarray) -> None:
        """Writes a file at once: readers see none or all of it."""
        file.parent.mkdir(parents=True, exist_ok=True)
        write_array(file, features.view(_BITS[self.dtype]))


def fill(files: FeatureFiles, config: GsvaConfig, params: dict, mesh: Mesh, pictures: Sequence[File]) -> int:
    """Computes what is missing, on all devices of all hosts.

    Args:
        files: files to fill.
        config: sizes.
        params: the tree of the model, on the mesh.
        mesh: the devices.
        pictures: the same on every host; asked for one by one, since packed ones hold their bytes. One that is damaged
            or not there is left out with a warning.

    Returns:
        How many pictures were missing.
    """
    encode = jax.jit(functools.partial(model.encode_for_masks, config), static_argnames="dtype")
    missing = [(place, number) for place, number in _places(files, pictures).items() if not place.exists()]
    wait_for_all("the missing features are known")  # before any host writes some
    B = mesh.shape["data"] * mesh.shape["fsdp"]
    rows = local_rows(mesh, B)
    for chunk in tracked(_chunks(missing, B), "image features", shown=is_first()):
        read = [pictures[chunk[row][1]] if row < len(chunk) else None for row in rows]
        inputs = [_input(picture, config.sam.image_size) for picture in read]
        local = {name: np.stack([one[name] for one in inputs]) for name in ("images", "resized")}
        batch = global_batch(mesh, B, rows, local)
        features = encode(params, batch["images"], batch["resized"], dtype=files.dtype)
        for shard in features.addressable_shards:
            first = shard.index[0].indices(B)[0]
            for row, value in enumerate(np.asarray(shard.data), first):
                if row < len(chunk) and inputs[rows.index(row)]["good"]:
                    files.write(chunk[row][0], value)
    wait_for_all("all features are written")
    return len(missing)


def _places(files: FeatureFiles, pictures: Sequence[File]) -> dict[epath.Path, int]:
    """The file of each picture and the picture's number; two datasets may have the same picture."""
    places = {}
    for number in range(len(pictures)):
        try:
            places[files.place(pictures[number])] = number
        except (OSError, ValueError) as error:
            log.warning("picture %d gets no features: %s", number, error)
    return places


def _chunks(items: Sequence, size: int) -> list[Sequence]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def _input(picture: File | None, side: int) -> dict:
    """A picture as SAM takes it, an empty one where there is none or it is damaged."""
    try:
        if picture is not None:
            padded, resized = sam_input(open_picture(picture), side)
            return {"images": padded, "resized": np.array(resized, np.int32), "good": True}
    except (OSError, ValueError) as error:
        log.warning("%s gets no features: %s", picture, error)
    return {"images": np.zeros((side, side, 3), np.uint8), "resized": np.ones(2, np.int32), "good": False}
