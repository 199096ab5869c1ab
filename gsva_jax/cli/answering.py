"""`gsva segment` and `gsva ask`: pictures in; an overlay, masks.json and a printed answer out."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from etils import epath
from tyro.conf import Positional, arg

from grounding_jax.cli.commands import OnMesh
from grounding_jax.cli.fonts import note_undrawable
from grounding_jax.cli.pictures import Request, answer_all, check_results, folder_requests, is_many, jsonl_requests
from grounding_jax.terminal import Dtype, note, optional, prepare_folder, say, working
from gsva_jax.cli.loading import load_model

if TYPE_CHECKING:
    import numpy as np

    from gsva_jax.predict import Answer

Asked = Request[tuple[str, ...]]  # for expressions
Item = tuple["np.ndarray", tuple[str, ...]]  # a picture, and what is looked for


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    image: Annotated[str, msgspec.Meta(min_length=1)]
    expressions: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]


_EXAMPLE = '{"image": "cat.jpg", "expressions": ["the cat", "a dog"]}'


@dataclasses.dataclass(frozen=True)
class Segment(OnMesh):
    """Draw a mask for everything you name in a picture, and say what is not there.

    One picture: DIR gets overlay.png and masks.json. A folder: all its pictures are searched for the same expressions.
    A jsonl file has lines like {"image": "cat.jpg", "expressions": ["the cat", "a dog"]}, with paths relative to
    itself. Of several pictures, each gets a folder in DIR.

    For example:
      gsva segment picture.jpg "the dog on the left" "a giraffe" --out results
      gsva segment holiday/ "people" --out results --checkpoint CKPT
      gsva segment wishes.jsonl --out results --threshold 0.3

    Attributes:
        source: a picture, a folder of pictures, or a jsonl file.
        expressions: phrases for the things to look for; none for a jsonl file, which has its own.
        out: folder for the results; made if missing. Earlier results of the same names are replaced.
        checkpoint: a model folder, or the name of a shipped model.
        threshold: reject expressions whose score, from 0 to 1, is lower; 0 never rejects.
        batch_size: pictures at once; the answers do not depend on it.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    source: Annotated[Positional[str], arg(metavar="IMAGE|FOLDER|JSONL")]
    expressions: Annotated[Positional[tuple[str, ...]], optional("EXPRESSION...")] = ()
    _: dataclasses.KW_ONLY
    out: Annotated[str, arg(metavar="DIR")]
    checkpoint: Annotated[str, arg(metavar="CKPT")] = "tiny"
    threshold: Annotated[float, arg(metavar="P")] = 0.5
    batch_size: Annotated[int, arg(metavar="N")] = 8
    dtype: Dtype = None

    def run(self) -> int:
        """Segments; the exit code is 1 if some of several pictures could not be done."""
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold {self.threshold}: must be between 0 and 1")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: must be at least 1")
        source, out = epath.Path(self.source), epath.Path(self.out)
        requests = self.requests(source, out)
        alone = None if is_many(source) else _read(requests[0])
        _prepare(requests, out)
        texts = [text for request in requests for text in request.question]
        gsva = load_model(self.checkpoint, self.dtype, self.mesh_for(len(requests)), texts)
        answer = functools.partial(gsva.segment_many, threshold=self.threshold)
        if alone is None:
            rows = dict(batch_size=self.batch_size, multiple=gsva.engine.batcher.multiple)
            return answer_all(requests, _read, answer, _finish, what="segmenting", program="gsva", **rows)
        begin = time.perf_counter()
        with working("segmenting (programs are compiled first)"):
            answers = answer([alone])
        _finish(requests[0], alone, answers[0])
        note(f"answered in {time.perf_counter() - begin:.1f} s")
        return 0

    def requests(self, source: epath.Path, out: epath.Path) -> list[Asked]:
        """What is asked about each picture; ValueError where that is not said, or a line of a list is damaged."""
        if is_many(source) and not source.is_dir():
            if self.expressions:
                raise ValueError(f"{source} has its own expressions: name none in the command")
            return jsonl_requests(source, _Line, _EXAMPLE, lambda line: line.expressions, out)
        if not self.expressions:
            raise ValueError("no expression: name what to look for, like 'the dog on the left'")
        if source.is_dir():
            _check_expressions(self.expressions)
            return folder_requests(source, self.expressions, out)
        return [Request(source, self.expressions, out)]


@dataclasses.dataclass(frozen=True)
class Ask(OnMesh):
    """Ask anything about a picture; the model writes its answer, with a mask for every [SEG] in it.

    The answer is printed. If it has masks, DIR gets overlay.png and masks.json.

    For example:
      gsva ask picture.jpg "Which of these can fly? Please output segmentation masks." --checkpoint CKPT --out results

    Attributes:
        picture: the picture that the question is about.
        question: in your own words.
        out: folder for the results; made if missing. Earlier results are replaced.
        checkpoint: a model folder, or the name of a shipped model.
        max_new: the most tokens to write.
        temperature: 0 for the most likely answer; the higher, the freer.
        seed: random seed of an answer at a temperature above 0.
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    picture: Annotated[Positional[str], arg(metavar="IMAGE")]
    question: Annotated[Positional[str], arg(metavar="QUESTION")]
    _: dataclasses.KW_ONLY
    out: Annotated[str, arg(metavar="DIR")]
    checkpoint: Annotated[str, arg(metavar="CKPT")] = "tiny"
    max_new: Annotated[int, arg(metavar="N")] = 256
    temperature: Annotated[float, arg(metavar="T")] = 0.0
    seed: Annotated[int, arg(metavar="S")] = 0
    dtype: Dtype = None

    def run(self) -> int:
        """Asks."""
        from grounding_jax.files.pictures import open_picture
        from gsva_jax.prompts import free_question

        if self.max_new < 1 or self.temperature < 0:
            raise ValueError("--max-new must be at least 1 and --temperature at least 0")
        free_question(self.question)
        out, picture = epath.Path(self.out), epath.Path(self.picture)
        image = open_picture(picture)
        _prepare([Request(picture, (), out)], out)
        gsva = load_model(self.checkpoint, self.dtype, self.mesh_for(1), [self.question])
        begin = time.perf_counter()
        with working("writing the answer (programs are compiled first)"):
            answer = gsva.ask(image, self.question, self.max_new, self.temperature, self.seed)
        _finish(Request(picture, (), out), (image, ()), answer, (self.question, answer.text))
        note(f"answered in {time.perf_counter() - begin:.1f} s")
        return 0


def _check_expressions(expressions: Sequence[str]) -> None:
    from gsva_jax.prompts import clean_expression

    for text in expressions:
        clean_expression(text)


def _read(request: Asked) -> Item:
    from grounding_jax.files.pictures import open_picture

    _check_expressions(request.question)
    return open_picture(request.picture), request.question


def _prepare(requests: Sequence[Asked], out: epath.Path) -> None:
    """Finds out before the model runs whether results can be written, and that they replace no picture."""
    from gsva_jax.results import FILES

    for request in requests:
        check_results(request.folder, FILES, [request.picture])
    prepare_folder(out)


def _finish(request: Asked, item: Item, answer: Answer, caption: Sequence[str] = ()) -> None:
    """Writes and prints an answer."""
    from gsva_jax.results import FILES, describe, save_results

    if answer.targets:
        request.folder.mkdir(parents=True, exist_ok=True)
        save_results(request.folder, item[0], answer.targets, caption)
        note_undrawable([*caption, *(target.expression for target in answer.targets)])
    say(answer.text)
    for line in describe(answer.targets):
        say(line)
    say("  ".join(str(request.folder / file) for file in FILES) if answer.targets else "no masks")
