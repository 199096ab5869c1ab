"""What the commands that choose masks have in common: whose masks they are, and where results may be written."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from etils import epath
from tyro.conf import arg

from gella_jax.cli.loading import load_model, load_segmenter
from grounding_jax.cli.commands import OnMesh
from grounding_jax.terminal import Dtype, note, optional, working

if TYPE_CHECKING:
    import numpy as np

    from gella_jax.predict import Gella
    from grounding_jax.data.entity_masks import Entities
    from grounding_jax.segmenters import Segmenter
    from grounding_jax.segmenters.proposals import Proposals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masked(OnMesh):
    """A command that chooses among masks.

    Attributes:
        checkpoint: a model folder, or the name of a shipped model.
        out: folder for the results; made if missing. Earlier results of the same names are replaced.
        masks: the masks to choose from: a COCO panoptic PNG or json, an indexed PNG, a folder of binary PNGs, a json of
            run lengths or polygons, or what SAM's automatic mask generator writes. Without masks and segmenter, a model
            that can find masks takes its own.
        segmenter: makes them instead: a SAM or a Mask2Former, as published.
        output_masks: give back the masks as they are put in, or what the model makes of them.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    checkpoint: Annotated[str, arg(metavar="CKPT")] = "tiny"
    out: Annotated[str, arg(metavar="DIR")]
    masks: Annotated[str | None, optional("SOURCE")] = None
    segmenter: Annotated[str | None, optional("FILE")] = None
    output_masks: Literal["input", "decoded"] = "input"
    dtype: Dtype = None

    def check_sources(self) -> list[epath.Path]:
        """The files and folders that masks are made of, which must be there.

        Raises:
            FileNotFoundError, ValueError: there is no such thing, or masks are named twice.
        """
        if self.masks is not None and self.segmenter is not None:
            raise ValueError("masks twice: name yours with --masks, or with --segmenter a model that makes them")
        if self.segmenter is not None and not epath.Path(self.segmenter).exists():
            raise FileNotFoundError(f"there is no segmenter {self.segmenter}")
        return [epath.Path(source) for source in (self.masks, self.segmenter) if source is not None]

    def load(self, num_pictures: int, needs_masks: bool) -> tuple[Gella, Finder]:
        """The model, and what finds the masks of pictures that come without.

        Args:
            num_pictures: number of pictures that it will be asked about.
            needs_masks: True if one of them comes without masks.

        Raises:
            FileNotFoundError, ValueError: a model can't be loaded, or nothing finds masks.
        """
        from gella_jax.config import SEGMENTER_FOLDER
        from gella_jax.loading import find_checkpoint

        mesh = self.mesh_for(num_pictures)
        if needs_masks and not self.segmenter:
            folder = find_checkpoint(self.checkpoint)
            if folder.is_dir() and not (folder / SEGMENTER_FOLDER).exists():
                raise ValueError(
                    f"no masks, and {self.checkpoint} finds none itself: name yours with --masks, or with --segmenter "
                    "a model that makes them"
                )
        segmenter = load_segmenter(self.segmenter, self.dtype, mesh) if self.segmenter else None
        gella = load_model(self.checkpoint, self.dtype, mesh)
        return gella, Finder(self.segmenter or f"{self.checkpoint} itself", segmenter or gella.segmenter)


class Finder(NamedTuple):
    """A model that finds masks, by its name; None where there is none."""

    name: str
    segmenter: Segmenter | None

    def find(self, images: Sequence[np.ndarray]) -> list[Proposals]:
        """The masks of pictures uint8 ``[H, W, 3]``; raises ValueError where one has none."""
        proposals = self.segmenter(images) if images else []
        if not all(one.entities.ids for one in proposals):
            raise ValueError(f"{self.name} finds no mask in this picture: name yours with --masks")
        return proposals

    def find_one(self, image: np.ndarray) -> Entities:
        """The masks of a picture by itself; says how many, and whose they are."""
        with working("segmenting (programs are compiled first)"):
            (proposals,) = self.find([image])
        self.note(proposals)
        return proposals.entities

    def note(self, proposals: Proposals) -> None:
        """Says how many masks were found, how many of them were left out, and by whom."""
        left_out = "".join(f", {number} left out: {reason}" for reason, number in proposals.left_out.items() if number)
        note(f"masks found by {self.name}: {len(proposals.entities.ids)}{left_out}")


def read_named(masks: epath.PathLike, image: np.ndarray, picture: epath.Path) -> Entities:
    """The masks of a picture uint8 ``[H, W, 3]`` that somebody names; says how many are left out."""
    from grounding_jax.data.entity_masks import read_masks

    return said_crowds(read_masks(masks, image.shape[:2], name=picture.name), picture)


def said_crowds(entities: Entities, picture: epath.Path) -> Entities:
    """The same, once it is said how many masks of crowds are left out."""
    if entities.crowds:
        note(f"{picture}: masks left out: {entities.crowds}, crowds (iscrowd 1)")
    return entities
