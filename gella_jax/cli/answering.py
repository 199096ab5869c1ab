"""`gella describe`, `nouns`, `ground`, `refer` and `panoptic`: a picture in; a text, overlays and json out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from etils import epath
from tyro.conf import Positional, arg

from gella_jax.cli.loading import load_model, propose, read_vocabulary
from grounding_jax.cli.fonts import note_undrawable
from grounding_jax.terminal import Dtype, note, optional, prepare_folder, say, working

if TYPE_CHECKING:
    import numpy as np

    from grounding_jax.data.entity_masks import Entities


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Told:
    """What the commands that only write text have in common.

    Attributes:
        checkpoint: a model folder.
        out: folder for the answer as json, too; made if missing. An earlier result is replaced.
        max_new: the most tokens to write.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    checkpoint: Annotated[str, arg(metavar="CKPT")]
    out: Annotated[str | None, optional("DIR")] = None
    max_new: Annotated[int, arg(metavar="N")] = 512
    dtype: Dtype = None

    def open(self, picture: str, file: str) -> np.ndarray:
        """The picture, once nothing can be found wrong any more before the model is loaded."""
        if self.max_new < 1:
            raise ValueError(f"--max-new {self.max_new}: must be at least 1")
        image = _open(picture)
        if self.out is not None:
            _prepare(self.out, (file,), (picture,))
        return image


@dataclasses.dataclass(frozen=True)
class Describe(_Told):
    """Describe a picture in words, which are printed.

    For example:
      gella describe picture.jpg --checkpoint CKPT
      gella ground picture.jpg "$(gella describe picture.jpg --checkpoint CKPT)" --masks M.png --checkpoint CKPT --out X

    Attributes:
        picture: the picture to describe.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]

    def run(self) -> int:
        """Describes."""
        from gella_jax.results import DESCRIPTION_FILE, save_description

        image = self.open(self.picture, DESCRIPTION_FILE)
        gella = load_model(self.checkpoint, self.dtype)
        begin = time.perf_counter()
        with working("writing the description (programs are compiled first)"):
            description = gella.describe(image, self.max_new)
        say(description)
        if self.out is not None:
            save_description(self.out, self.picture, description)
            note(_files(self.out, (DESCRIPTION_FILE,), begin))
        return 0


@dataclasses.dataclass(frozen=True)
class NounsCommand(_Told):
    """Find the nouns of a caption, and where it has them.

    For example:
      gella nouns picture.jpg "A dog lies on the couch." --checkpoint CKPT

    Attributes:
        picture: the picture that the caption is about.
        caption: one or more sentences.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]
    caption: Annotated[Positional[str], arg(metavar="CAPTION")]

    def run(self) -> int:
        """Asks for the nouns."""
        from gella_jax.prompts import nouns_question
        from gella_jax.results import NOUNS_FILE, describe_nouns, save_nouns

        nouns_question(self.caption)
        image = self.open(self.picture, NOUNS_FILE)
        gella = load_model(self.checkpoint, self.dtype)
        begin = time.perf_counter()
        with working("finding the nouns (programs are compiled first)"):
            answer = gella.nouns(image, self.caption, self.max_new)
        say(answer.text)
        for line in describe_nouns(answer):
            say(line)
        if not answer.finished:
            note(f"the answer was cut off at {self.max_new} tokens, or at the end of the context: see --max-new")
        if self.out is not None:
            save_nouns(self.out, self.picture, self.caption, answer)
            note(_files(self.out, (NOUNS_FILE,), begin))
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Masked:
    """What the commands that choose masks have in common.

    Attributes:
        checkpoint: a model folder.
        out: folder for the results; made if missing. Earlier results of the same names are replaced.
        masks: the masks to choose from: a COCO panoptic PNG or json, an indexed PNG, a folder of binary PNGs, a json of
            run lengths or polygons, or what SAM's automatic mask generator writes.
        segmenter: makes them instead: a SAM, or a Mask2Former of entities, as published.
        output_masks: give back the masks as they are put in, or what the model makes of them.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    checkpoint: Annotated[str, arg(metavar="CKPT")]
    out: Annotated[str, arg(metavar="DIR")]
    masks: Annotated[str | None, optional("SOURCE")] = None
    segmenter: Annotated[str | None, optional("FILE")] = None
    output_masks: Literal["input", "decoded"] = "input"
    dtype: Dtype = None

    def open(self, picture: str, files: Sequence[str]) -> tuple[np.ndarray, Entities]:
        """The picture and its masks, once nothing can be found wrong any more before the model is loaded."""
        if (self.masks is None) == (self.segmenter is None):
            problem = "no masks" if self.masks is None else "masks twice"
            raise ValueError(f"{problem}: name yours with --masks, or with --segmenter a model that makes them")
        image = _open(picture)
        if self.segmenter is not None:
            if not epath.Path(self.segmenter).exists():
                raise FileNotFoundError(f"there is no segmenter {self.segmenter}")
            _prepare(self.out, files, (picture, self.segmenter))
            return image, propose(self.segmenter, image, self.dtype)
        from grounding_jax.data.entity_masks import read_masks

        entities = read_masks(self.masks, image.shape[:2], name=epath.Path(picture).name)
        if entities.crowds:
            note(f"masks left out: {entities.crowds}, crowds (iscrowd 1)")
        _prepare(self.out, files, (picture, self.masks))
        return image, entities


@dataclasses.dataclass(frozen=True)
class Ground(_Masked):
    """Say which masks every noun of a caption means.

    The model finds the nouns, unless you name them. DIR gets grounding.png, with numbered masks and the caption in the
    same colours; grounding.html, a page of its own on which every noun shows what it means; and grounding.json.

    For example:
      gella ground picture.jpg "A dog lies on the couch." --masks masks.json --checkpoint CKPT --out results
      gella ground picture.jpg "A dog on a couch." --nouns dog couch --segmenter sam.pth --checkpoint CKPT --out results

    Attributes:
        picture: the picture that the caption is about.
        caption: one or more sentences.
        nouns: nouns of the caption; without them, the model finds them.
        threshold: a noun means all masks with a score, from 0 to 1, above it, or the best one where none has.
        absent: a noun without a mask above the threshold means none: it is not in the picture.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]
    caption: Annotated[Positional[str], arg(metavar="CAPTION")]
    _: dataclasses.KW_ONLY
    nouns: Annotated[tuple[str, ...], optional("NOUN...")] = ()
    threshold: Annotated[float, arg(metavar="P")] = 0.5
    absent: bool = False

    def run(self) -> int:
        """Grounds."""
        from gella_jax.prompts import nouns_answer, nouns_question
        from gella_jax.results import GROUNDING_FILES, describe_grounding, save_grounding

        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold {self.threshold}: must be between 0 and 1")
        nouns_question(self.caption)
        nouns_answer(self.nouns)
        image, entities = self.open(self.picture, GROUNDING_FILES)
        gella = load_model(self.checkpoint, self.dtype)
        begin = time.perf_counter()
        with working("grounding (programs are compiled first)"):
            given = self.nouns or None
            asked = (image, self.caption, entities, given, self.threshold, self.output_masks, self.absent)
            grounding = gella.ground(*asked)
            save_grounding(self.out, self.picture, image, grounding)
        say(grounding.text)
        for line in describe_grounding(grounding):
            say(line)
        note_undrawable([self.caption, *(noun.text for noun in grounding.nouns)])
        say(_files(self.out, GROUNDING_FILES, begin))
        return 0


@dataclasses.dataclass(frozen=True)
class Refer(_Masked):
    """Find the one mask that an expression means.

    DIR gets overlay.png and masks.json.

    For example:
      gella refer picture.jpg "the dog on the left" --masks masks.json --checkpoint CKPT --out results

    Attributes:
        picture: the picture to look in.
        expression: a phrase for the thing to look for.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]
    expression: Annotated[Positional[str], arg(metavar="EXPRESSION")]

    def run(self) -> int:
        """Refers."""
        from gella_jax.prompts import nouns_answer, nouns_question
        from gella_jax.results import REFERENCE_FILES, describe_reference, save_reference

        nouns_question(self.expression)
        nouns_answer([self.expression])  # it stands for itself where the model names no noun
        image, entities = self.open(self.picture, REFERENCE_FILES)
        gella = load_model(self.checkpoint, self.dtype)
        begin = time.perf_counter()
        with working("looking (programs are compiled first)"):
            reference = gella.refer(image, self.expression, entities, self.output_masks)
            save_reference(self.out, image, reference, entities)
        say(reference.text)
        for line in describe_reference(reference, entities):
            say(line)
        note_undrawable([self.expression])
        say(_files(self.out, REFERENCE_FILES, begin))
        return 0


@dataclasses.dataclass(frozen=True)
class PanopticCommand(_Masked):
    """Give every mask a category, and every pixel one segment.

    DIR gets panoptic.png and panoptic.json, as COCO has them, and overlay.png to look at.

    For example:
      gella panoptic picture.jpg --masks masks.json --checkpoint CKPT --out results
      gella panoptic picture.jpg --masks masks.json --vocabulary dog cat "brick wall" --checkpoint CKPT --out results
      gella panoptic picture.jpg --masks masks.json --vocabulary categories.json --checkpoint CKPT --out results

    Attributes:
        picture: the picture to segment.
        vocabulary: names of things; or a file: a text with a name a line, or a json with COCO's categories, which tell
            things from stuff. Without it, the 133 categories of COCO.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]
    _: dataclasses.KW_ONLY
    vocabulary: Annotated[tuple[str, ...], optional("FILE|NAME...")] = ()

    def run(self) -> int:
        """Segments."""
        from gella_jax.results import PANOPTIC_FILES, describe_panoptic, save_panoptic

        categories = read_vocabulary(self.vocabulary)
        image, entities = self.open(self.picture, PANOPTIC_FILES)
        gella = load_model(self.checkpoint, self.dtype)
        begin = time.perf_counter()
        with working("segmenting (programs are compiled first)"):
            panoptic = gella.panoptic(image, entities, categories, self.output_masks)
            save_panoptic(self.out, epath.Path(self.picture).name, image, panoptic, categories)
        say(f"segments: {len(panoptic.segments)}, from {len(entities.ids)} masks")
        for line in describe_panoptic(panoptic):
            say(line)
        note_undrawable(segment.category.name for segment in panoptic.segments)
        say(_files(self.out, PANOPTIC_FILES, begin))
        return 0


def _open(picture: str) -> np.ndarray:
    from grounding_jax.files.pictures import open_picture

    return open_picture(picture)


def _prepare(out: str, files: Sequence[str], sources: Sequence[str]) -> None:
    """Finds out before the model runs whether results can be written, and that they replace or join no source."""
    folder = epath.Path(out).resolve()
    for source in sources:
        if epath.Path(source).resolve() in (folder, *(folder / file for file in files)):
            raise ValueError(f"results would be written over {source}, or into it: choose another --out")
    prepare_folder(out)


def _files(out: str, files: Sequence[str], begin: float) -> str:
    """Where the results are, and how long they took."""
    return f"{'  '.join(str(epath.Path(out) / file) for file in files)}  ({time.perf_counter() - begin:.1f} s)"
