"""`gella describe`, `nouns`, `refer` and `panoptic`: a picture in; a text, overlays and json out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from etils import epath
from tyro.conf import Positional, arg

from gella_jax.cli.loading import load_model, read_vocabulary
from gella_jax.cli.masks import Masked, read_named
from grounding_jax.cli.commands import OnMesh
from grounding_jax.cli.fonts import note_undrawable
from grounding_jax.cli.pictures import check_results
from grounding_jax.terminal import Dtype, note, optional, prepare_folder, say, working

if TYPE_CHECKING:
    import numpy as np

    from grounding_jax.data.entity_masks import Entities


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Told(OnMesh):
    """What the commands that only write text have in common.

    Attributes:
        checkpoint: a model folder, or the name of a shipped model.
        out: folder for the answer as json, too; made if missing. An earlier result is replaced.
        max_new: the most tokens to write.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    checkpoint: Annotated[str, arg(metavar="CKPT")] = "tiny"
    out: Annotated[str | None, optional("DIR")] = None
    max_new: Annotated[int, arg(metavar="N")] = 512
    dtype: Dtype = None

    def open(self, picture: str, file: str) -> np.ndarray:
        """The picture, once nothing can be found wrong any more before the model is loaded."""
        if self.max_new < 1:
            raise ValueError(f"--max-new {self.max_new}: must be at least 1")
        image = _open(epath.Path(picture))
        if self.out is not None:
            check_results(epath.Path(self.out), (file,), [epath.Path(picture)])
            prepare_folder(self.out)
        return image


@dataclasses.dataclass(frozen=True)
class Describe(_Told):
    """Describe a picture in words, which are printed.

    For example:
      gella describe picture.jpg --checkpoint CKPT

    Attributes:
        picture: the picture to describe.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]

    def run(self) -> int:
        """Describes."""
        from gella_jax.results import DESCRIPTION_FILE, save_description

        image = self.open(self.picture, DESCRIPTION_FILE)
        gella = load_model(self.checkpoint, self.dtype, self.mesh_for(1))
        begin = time.perf_counter()
        with working("writing the description (programs are compiled first)"):
            description = gella.describe(image, self.max_new)
        say(description)
        if self.out is not None:
            save_description(self.out, self.picture, description)
            note(_files(self.out, (DESCRIPTION_FILE,)))
        note(f"answered in {time.perf_counter() - begin:.1f} s")
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
        gella = load_model(self.checkpoint, self.dtype, self.mesh_for(1))
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
            note(_files(self.out, (NOUNS_FILE,)))
        note(f"answered in {time.perf_counter() - begin:.1f} s")
        return 0


@dataclasses.dataclass(frozen=True)
class Refer(Masked):
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
        image, entities = _open_masked(self, epath.Path(self.picture), REFERENCE_FILES)
        gella, finder = self.load(1, needs_masks=entities is None)
        begin = time.perf_counter()
        entities = finder.find_one(image) if entities is None else entities
        with working("looking (programs are compiled first)"):
            reference = gella.refer(image, self.expression, entities, self.output_masks)
            save_reference(self.out, self.picture, image, reference, entities)
        say(reference.text)
        for line in describe_reference(reference, entities):
            say(line)
        note_undrawable([self.expression])
        say(_files(self.out, REFERENCE_FILES))
        note(f"answered in {time.perf_counter() - begin:.1f} s")
        return 0


@dataclasses.dataclass(frozen=True)
class PanopticCommand(Masked):
    """Give every mask a category, and every pixel one segment.

    DIR gets panoptic.png and panoptic.json, as COCO has them, and overlay.png to look at.

    For example:
      gella panoptic picture.jpg --masks masks.json --checkpoint CKPT --out results
      gella panoptic picture.jpg --masks masks.json --vocabulary dog cat "brick wall" --checkpoint CKPT --out results
      gella panoptic picture.jpg --masks masks.json --vocabulary categories.json --checkpoint CKPT --out results

    Attributes:
        picture: the picture to segment.
        vocabulary: names of things; or a file: a text with a name a line, or a json with COCO's categories, which tell
            things from stuff. Without it, those that the model knows: the 133 categories of COCO, unless its folder has
            a categories.json.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]
    _: dataclasses.KW_ONLY
    vocabulary: Annotated[tuple[str, ...], optional("FILE|NAME...")] = ()

    def run(self) -> int:
        """Segments."""
        from gella_jax.results import PANOPTIC_FILES, describe_panoptic, save_panoptic

        named = read_vocabulary(self.vocabulary) if self.vocabulary else None
        image, entities = _open_masked(self, epath.Path(self.picture), PANOPTIC_FILES)
        gella, finder = self.load(1, needs_masks=entities is None)
        categories = named or gella.categories
        begin = time.perf_counter()
        entities = finder.find_one(image) if entities is None else entities
        with working("segmenting (programs are compiled first)"):
            panoptic = gella.panoptic(image, entities, categories, self.output_masks)
            save_panoptic(self.out, epath.Path(self.picture).name, image, panoptic, categories)
        say(f"segments: {len(panoptic.segments)}, from {len(entities.ids)} masks")
        for line in describe_panoptic(panoptic):
            say(line)
        note_undrawable(segment.category.name for segment in panoptic.segments)
        say(_files(self.out, PANOPTIC_FILES))
        note(f"answered in {time.perf_counter() - begin:.1f} s")
        return 0


def _open(picture: epath.Path) -> np.ndarray:
    from grounding_jax.files.pictures import open_picture

    return open_picture(picture)


def _open_masked(command: Masked, picture: epath.Path, files: Sequence[str]) -> tuple[np.ndarray, Entities | None]:
    """The picture and the masks that are named, once nothing can be found wrong any more before a model is loaded."""
    sources = command.check_sources()
    image = _open(picture)
    entities = None if command.masks is None else read_named(command.masks, image, picture)
    check_results(epath.Path(command.out), files, [picture, *sources])
    prepare_folder(command.out)
    return image, entities


def _files(out: str, files: Sequence[str]) -> str:
    """Where the results are."""
    return "  ".join(str(epath.Path(out) / file) for file in files)
