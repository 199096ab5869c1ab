"""`gella ground`: pictures in; their captions with the masks that the nouns mean, as pictures, pages and json, out."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import msgspec
from etils import epath
from tyro.conf import Positional, arg

from gella_jax.cli.masks import Finder, Masked, read_named, said_crowds
from grounding_jax.cli import pictures
from grounding_jax.cli.fonts import note_undrawable
from grounding_jax.cli.pictures import answer_all, check_results, folder_requests, is_many, jsonl_requests
from grounding_jax.terminal import note, optional, prepare_folder, say, working

if TYPE_CHECKING:
    from gella_jax.answers import Grounding
    from gella_jax.predict import Gella, Request
    from grounding_jax.data.entity_masks import MaskReader
    from grounding_jax.segmenters.proposals import Proposals


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    image: Annotated[str, msgspec.Meta(min_length=1)]
    caption: str | None = None
    nouns: tuple[str, ...] | None = None
    masks: Annotated[str, msgspec.Meta(min_length=1)] | None = None


_EXAMPLE = '{"image": "cat.jpg", "caption": "A cat on a mat.", "nouns": ["A cat", "a mat"], "masks": "cat.json"}'


class Wish(NamedTuple):
    """What is given about a picture: its caption, the nouns of that, and the file of its masks; None is left open."""

    caption: str | None
    nouns: tuple[str, ...] | None
    masks: epath.Path | None


Asked = pictures.Request[Wish]


class Answer(NamedTuple):
    """A grounding, and the masks that were found for it; None where they were named."""

    grounding: Grounding
    found: Proposals | None


@dataclasses.dataclass(frozen=True)
class Ground(Masked):
    """Say which masks every noun of a caption means.

    Without a caption, the model describes the picture first. It finds the nouns, unless you name them. DIR gets
    grounding.png, with numbered masks and the caption in the same colours; grounding.html, a page of its own on which
    every noun shows what it means; and grounding.json. A jsonl file has lines like {"image": "cat.jpg", "caption": "A
    cat on a mat.", "nouns": ["A cat", "a mat"], "masks": "cat.json"}, with paths relative to itself; all but the image
    may be missing. Of several pictures, each gets a folder in DIR.

    For example:
      gella ground picture.jpg --masks masks.json --checkpoint CKPT --out results
      gella ground picture.jpg "A dog on a couch." --nouns dog couch --segmenter sam.pth --checkpoint CKPT --out results
      gella ground holiday/ --masks masks/ --absent --checkpoint CKPT --out results

    Attributes:
        source: a picture, a folder of pictures, or a jsonl file.
        caption: one or more sentences about the picture; none for a jsonl file, which has its own.
        nouns: nouns of the caption; without them, the model finds them.
        masks: the masks to choose from: a COCO panoptic PNG or json, an indexed PNG, a folder of binary PNGs, a json of
            run lengths or polygons, or what SAM's automatic mask generator writes. For several pictures a folder with
            STEM.png, STEM.json or a folder STEM for the picture STEM.jpg, or a json about all. Without masks and
            segmenter, a model that can find masks takes its own.
        threshold: a noun means all masks with a score, from 0 to 1, above it, or the best one where none has.
        absent: a noun without a mask above the threshold means none: it is not in the picture.
        batch_size: pictures at once; the answers do not depend on it.
    """

    source: Annotated[Positional[str], arg(metavar="IMAGE|FOLDER|JSONL")]
    caption: Annotated[Positional[str | None], optional("[CAPTION]")] = None
    _: dataclasses.KW_ONLY
    nouns: Annotated[tuple[str, ...], optional("NOUN...")] = ()
    threshold: Annotated[float, arg(metavar="P")] = 0.5
    absent: bool = False
    batch_size: Annotated[int, arg(metavar="N")] = 4

    def run(self) -> int:
        """Grounds; the exit code is 1 if some of several pictures could not be done."""
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold {self.threshold}: must be between 0 and 1")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: must be at least 1")
        requests = self._requests()
        alone = None if is_many(epath.Path(self.source)) else self._read(requests[0])
        self._prepare(requests)
        needs_masks = self.masks is None and any(request.question.masks is None for request in requests)
        gella, finder = self.load(len(requests), needs_masks)
        answer = functools.partial(self._answer, gella, finder)
        finish = functools.partial(_finish, finder)
        if alone is None:
            rows = dict(batch_size=self.batch_size, multiple=gella.engine.batcher.multiple)
            return answer_all(requests, self._read, answer, finish, what="grounding", program="gella", **rows)
        begin = time.perf_counter()
        with working("grounding (programs are compiled first)"):
            answers = answer([alone])
        finish(requests[0], alone, answers[0])
        note(f"in {time.perf_counter() - begin:.1f} s")
        return 0

    def _requests(self) -> list[Asked]:
        """What is asked about each picture."""
        source, out, nouns = epath.Path(self.source), epath.Path(self.out), self.nouns or None
        if is_many(source) and not source.is_dir():
            if self.caption is not None or nouns:
                raise ValueError(f"{source} has its own captions and nouns: name none in the command")
            return jsonl_requests(source, _Line, _EXAMPLE, functools.partial(_wish, source), out)
        wish = Wish(self.caption, nouns, None)
        _check_words(wish)
        return folder_requests(source, wish, out) if source.is_dir() else [pictures.Request(source, wish, out)]

    def _prepare(self, requests: Sequence[Asked]) -> None:
        """Finds out before a model is loaded whether masks are there and results can be written."""
        from gella_jax.results import GROUNDING_FILES

        sources = self.check_sources()
        many = is_many(epath.Path(self.source))
        if many and self.masks is not None:
            _ = self._mask_reader  # says what is wrong with them
            _check_stems([request.picture for request in requests if request.question.masks is None], self.masks)
        for request in requests:
            own = [] if request.question.masks is None else [request.question.masks]
            check_results(request.folder, GROUNDING_FILES, [request.picture, *sources, *own])
        check_results(epath.Path(self.out), (), sources)
        prepare_folder(self.out)

    def _read(self, request: Asked) -> Request:
        """The picture, and the masks that are named."""
        from gella_jax.predict import Request
        from grounding_jax.files.pictures import open_picture

        wish, picture = request.question, request.picture
        _check_words(wish)
        image, named = open_picture(picture), wish.masks or self.masks
        if wish.masks is None and self._mask_reader is not None:
            entities = said_crowds(self._mask_reader(image.shape[:2], None, picture.name), picture)
        else:
            entities = None if named is None else read_named(named, image, picture)
        return Request(image, wish.caption, entities, wish.nouns)

    @functools.cached_property
    def _mask_reader(self) -> MaskReader | None:
        """What reads the masks of each of several pictures from the one place that is named for all."""
        from grounding_jax.data.entity_masks import mask_reader

        return mask_reader(self.masks) if self.masks is not None and is_many(epath.Path(self.source)) else None

    def _answer(self, gella: Gella, finder: Finder, items: Sequence[Request]) -> list[Answer]:
        """Finds the masks of the pictures that have none, and grounds."""
        bare = [b for b, item in enumerate(items) if item.entities is None]
        found = dict(zip(bare, finder.find([items[b].image for b in bare]), strict=True))
        whole = [item._replace(entities=found[b].entities) if b in found else item for b, item in enumerate(items)]
        groundings = gella.ground_many(whole, self.threshold, self.output_masks, absent=self.absent)
        return [Answer(grounding, found.get(b)) for b, grounding in enumerate(groundings)]


def _wish(file: epath.Path, line: _Line) -> Wish:
    """What a line of a file gives."""
    return Wish(line.caption, line.nouns, None if line.masks is None else file.parent / line.masks)


def _check_words(wish: Wish) -> None:
    """Raises ValueError where a caption or a noun is empty, or there are nouns of no caption."""
    from gella_jax.prompts import nouns_answer, nouns_question

    if wish.caption is not None:
        nouns_question(wish.caption)
    if wish.nouns is not None:
        if wish.caption is None:
            raise ValueError(f"the nouns {', '.join(wish.nouns)} are of no caption: give that, too")
        nouns_answer(wish.nouns)


def _check_stems(found: Sequence[epath.Path], masks: str) -> None:
    """Raises ValueError where two pictures would get the same masks, which go by their names without the ending."""
    others: dict[str, epath.Path] = {}
    for picture in found:
        other = others.setdefault(picture.stem, picture)
        if other.resolve() != picture.resolve():
            raise ValueError(
                f"{other} and {picture} would both get the masks of {picture.stem} in {masks}: name those of each in a "
                "line of a jsonl file"
            )


def _finish(finder: Finder, request: Asked, item: Request, answer: Answer) -> None:
    """Writes and prints an answer."""
    from gella_jax.results import GROUNDING_FILES, describe_grounding, save_grounding

    grounding = answer.grounding
    request.folder.mkdir(parents=True, exist_ok=True)
    save_grounding(request.folder, str(request.picture), item.image, grounding)
    if answer.found is not None:
        finder.note(answer.found)
    if grounding.described:
        say(f"the model's own caption: {grounding.caption}")
    say(grounding.text)
    for line in describe_grounding(grounding):
        say(line)
    if not grounding.finished:
        note("what the model wrote was cut off, at its limit of tokens or at the end of the context")
    note_undrawable([grounding.caption, *(noun.text for noun in grounding.nouns)])
    say("  ".join(str(request.folder / file) for file in GROUNDING_FILES))
