"""`gsva segment` and `gsva ask`: pictures in; an overlay, masks.json and a printed answer out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from etils import epath
from tyro.conf import Positional, arg

from grounding_jax.cli.fonts import note_undrawable
from grounding_jax.terminal import (
    Dtype,
    note,
    one_line,
    optional,
    prepare_folder,
    say,
    tracked,
    working,
)
from gsva_jax.cli.loading import load_model
from gsva_jax.cli.requests import Request, folder_requests, is_many, jsonl_requests

if TYPE_CHECKING:
    import numpy as np

    from gsva_jax.predict import Answer, Gsva


@dataclasses.dataclass(frozen=True)
class Segment:
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
        dtype: floating-point type of the weights and the computation; by default float32 on CPU and bfloat16 elsewhere.
    """

    source: Annotated[Positional[str], arg(metavar="IMAGE|FOLDER|JSONL")]
    expressions: Annotated[Positional[tuple[str, ...]], optional("EXPRESSION...")] = ()
    _: dataclasses.KW_ONLY
    out: Annotated[str, arg(metavar="DIR")]
    checkpoint: Annotated[str, arg(metavar="CKPT")] = "tiny"
    threshold: Annotated[float, arg(metavar="P")] = 0.5
    dtype: Dtype = None

    def run(self) -> int:
        """Segments; the exit code is 1 if some of several pictures could not be done."""
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"--threshold {self.threshold}: must be between 0 and 1")
        source, out = epath.Path(self.source), epath.Path(self.out)
        if is_many(source):
            requests = self._requests(source, out)
            _prepare(requests, out)
            asked = [text for request in requests for text in request.expressions]
            return self._segment_all(load_model(self.checkpoint, self.dtype, asked=asked), requests)
        self._check_expressions()
        request, image = Request(source, self.expressions, out), _open(source)
        _prepare([request], out)
        gsva = load_model(self.checkpoint, self.dtype, asked=self.expressions)
        begin = time.perf_counter()
        with working("segmenting (programs are compiled first)"):
            answer = self._segment(gsva, request, image)
        _report(answer, out, time.perf_counter() - begin)
        return 0

    def _requests(self, source: epath.Path, out: epath.Path) -> list[Request]:
        if not source.is_dir():
            if self.expressions:
                raise ValueError(f"{source} has its own expressions: name none in the command")
            return jsonl_requests(source, out)
        self._check_expressions()
        requests, others = folder_requests(source, self.expressions, out)
        if others:
            note(f"{source}: {len(requests)} pictures; left out {others} other files")
        return requests

    def _check_expressions(self) -> None:
        from gsva_jax.prompts import clean_expression

        if not self.expressions:
            raise ValueError("no expression: name what to look for, like 'the dog on the left'")
        for text in self.expressions:
            clean_expression(text)

    def _segment(self, gsva: Gsva, request: Request, image: np.ndarray) -> Answer:
        answer = gsva.segment(image, request.expressions, self.threshold)
        _save(answer, request.folder, image)
        return answer

    def _segment_all(self, gsva: Gsva, requests: Sequence[Request]) -> int:
        """Segments what can be; what can't is said at once and again at the end."""
        failures = []
        for request in tracked(requests, "segmenting"):
            begin = time.perf_counter()
            try:
                answer = self._segment(gsva, request, _open(request.picture))
            except (ValueError, OSError) as error:
                message, name = one_line(error), str(request.picture)
                failures.append(message if name in message else f"{name}: {message}")
                say(f"{name}\n  failed: {message}")
            else:
                say(request.picture)
                _report(answer, request.folder, time.perf_counter() - begin)
        say(f"{len(requests) - len(failures)} of {len(requests)} pictures done; results in {self.out}")
        for failure in failures:
            note(f"gsva: error: {failure}")
        return 1 if failures else 0


@dataclasses.dataclass(frozen=True)
class Ask:
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
        from gsva_jax.prompts import free_question

        if self.max_new < 1 or self.temperature < 0:
            raise ValueError("--max-new must be at least 1 and --temperature at least 0")
        free_question(self.question)
        out, image = epath.Path(self.out), _open(epath.Path(self.picture))
        _prepare([Request(epath.Path(self.picture), (), out)], out)
        gsva = load_model(self.checkpoint, self.dtype, asked=[self.question])
        begin = time.perf_counter()
        with working("writing the answer (programs are compiled first)"):
            answer = gsva.ask(image, self.question, self.max_new, self.temperature, self.seed)
            if answer.targets:
                _save(answer, out, image, caption=(self.question, answer.text))
        _report(answer, out, time.perf_counter() - begin)
        return 0


def _open(picture: epath.Path) -> np.ndarray:
    from grounding_jax.files.pictures import open_picture

    return open_picture(picture)


def _prepare(requests: Sequence[Request], out: epath.Path) -> None:
    """Finds out before the model runs whether results can be written, and that they replace no picture."""
    from gsva_jax.results import OVERLAY_FILE

    for request in requests:
        if request.picture.resolve() == (request.folder / OVERLAY_FILE).resolve():
            raise ValueError(f"the overlay would replace the picture {request.picture}: choose another --out")
    prepare_folder(out)


def _save(answer: Answer, folder: epath.Path, image: np.ndarray, caption: Sequence[str] = ()) -> None:
    from gsva_jax.results import save_results

    folder.mkdir(parents=True, exist_ok=True)
    save_results(folder, image, answer.targets, caption)
    note_undrawable([*caption, *(target.expression for target in answer.targets)])


def _report(answer: Answer, folder: epath.Path, seconds: float) -> None:
    from gsva_jax.results import MASKS_FILE, OVERLAY_FILE, describe

    say(answer.text)
    for line in describe(answer.targets):
        say(line)
    files = f"{folder / OVERLAY_FILE}  {folder / MASKS_FILE}" if answer.targets else "no masks"
    say(f"{files}  ({seconds:.1f} s)")
