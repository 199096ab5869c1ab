"""What commands about pictures do alike: one picture, a folder of pictures or the lines of a jsonl file is asked about.

requests = folder_requests(source, question, out)             # or jsonl_requests
answer_all(requests, read, answer, finish, what="segmenting", program="gsva", batch_size=8, multiple=1)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, Protocol, TypeVar

from etils import epath

from grounding_jax.files import paths, records
from grounding_jax.terminal import counting, note, one_line, say

Question = TypeVar("Question")  # about a picture
Item = TypeVar("Item")  # what is read of its files
Answer = TypeVar("Answer")


class WithImage(Protocol):
    """A line of a jsonl file."""

    @property
    def image(self) -> str:
        """Its picture, relative to the file."""


Line = TypeVar("Line", bound=WithImage)


@dataclasses.dataclass(frozen=True)
class Request(Generic[Question]):
    """One picture, what is asked about it, and the folder for its results."""

    picture: epath.Path
    question: Question
    folder: epath.Path


def is_many(source: epath.Path) -> bool:
    """Whether a source may hold several pictures."""
    return source.is_dir() or source.suffix == ".jsonl"


def folder_requests(source: epath.Path, question: Question, out: epath.Path) -> list[Request[Question]]:
    """The same question for every picture directly in a folder, by name; says how many files are no pictures.

    Raises:
        ValueError: there is no picture.
    """
    from grounding_jax.files import pictures  # imports NumPy

    found, others = pictures.list_pictures(source)
    if not found:
        raise ValueError(f"there is no picture in the folder {source}, that is, no {' '.join(pictures.SUFFIXES)}")
    if others:
        note(f"{source}: {len(found)} pictures; left out {others} other files")
    return _with_folders([(picture, question) for picture in found], out)


def jsonl_requests(
    source: epath.Path, kind: type[Line], example: str, ask: Callable[[Line], Question], out: epath.Path
) -> list[Request[Question]]:
    """The question of every line; pictures' paths are relative to the file.

    Args:
        source: the file.
        kind: type of a line.
        example: example of a line, for errors.
        ask: from a line to its question.
        out: folder for the results.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not as it should be; says which, and how it should be.
    """
    lines = records.read_lines(source, kind, example)
    return _with_folders([(source.parent / line.image, ask(line)) for _, line in lines], out)


def check_results(folder: epath.Path, files: Iterable[str], sources: Iterable[epath.Path]) -> None:
    """Raises ValueError where results would be written over what they are made of, or into it.

    Args:
        folder: folder for the results.
        files: their names.
        sources: files and folders that must stay as they are.
    """
    places = {folder.resolve(), *((folder / file).resolve() for file in files)}
    for source in sources:
        if source.resolve() in places:
            raise ValueError(f"results would be written over {source}, or into it: choose another --out")


def answer_all(
    requests: Sequence[Request[Question]],
    read: Callable[[Request[Question]], Item],
    answer: Callable[[Sequence[Item]], Sequence[Answer]],
    finish: Callable[[Request[Question], Item, Answer], None],
    *,
    what: str,
    program: str,
    batch_size: int,
    multiple: int,
) -> int:
    """Answers about many pictures, several at once, and shows how far it is.

    A picture that can't be done is named at once and again in the end; the others go on.

    Args:
        requests: at least one.
        read: opens what a question is about.
        answer: the model. It is always asked about as many pictures, some of them twice where too few are left, for
            another number would be another program; and about each by itself where one spoils the answer.
        finish: writes and prints an answer.
        what: name of the work.
        program: name of the command.
        batch_size: pictures at once.
        multiple: rows that divide over the devices; the batch is rounded up to it.

    Returns:
        The exit code: 1 if some of the pictures could not be done.
    """
    from grounding_jax.language.batching import round_up  # imports JAX

    size = round_up(min(batch_size, len(requests)), multiple)
    failures: list[str] = []
    waiting: list[tuple[Request[Question], Item]] = []
    with counting() as count:
        count(what, 0, len(requests))
        for number, request in enumerate(requests, 1):
            try:
                waiting.append((request, read(request)))
            except (ValueError, OSError) as error:
                failures.append(_failed(request, error))
            if len(waiting) == size or number == len(requests):
                failures += _answer(waiting, answer, finish, size)
                waiting = []
            count(what, number - len(waiting), len(requests))
    done, out = len(requests) - len(failures), requests[0].folder.parent
    say(f"{done} of {len(requests)} pictures done; results in {out}")
    for failure in failures:
        note(f"{program}: error: {failure}")
    return 1 if failures else 0


def _answer(
    batch: Sequence[tuple[Request[Question], Item]],
    answer: Callable[[Sequence[Item]], Sequence[Answer]],
    finish: Callable[[Request[Question], Item, Answer], None],
    size: int,
) -> Iterator[str]:
    """Answers about a batch, or about each by itself where one spoils the answer; what could not be done."""
    from grounding_jax.language.batching import pad_batch

    if not batch:
        return
    try:
        answers = answer(pad_batch([item for _, item in batch], size))
    except (ValueError, OSError) as error:
        if len(batch) == 1:
            yield _failed(batch[0][0], error)
        else:
            for alone in batch:
                yield from _answer([alone], answer, finish, 1)
        return
    for (request, item), one in zip(batch, answers, strict=False):
        try:
            say(request.picture)
            finish(request, item, one)
        except (ValueError, OSError) as error:
            yield _failed(request, error)


def _failed(request: Request[Question], error: Exception) -> str:
    """Says that a picture could not be done; the line about it for the end."""
    message, name = one_line(error), str(request.picture)
    say(f"{name}\n  failed: {message}")
    return message if name in message else f"{name}: {message}"


def _with_folders(pairs: Sequence[tuple[epath.Path, Question]], out: epath.Path) -> list[Request[Question]]:
    """Gives every picture a folder of its own in `out`."""
    names = paths.result_names(picture for picture, _ in pairs)
    return [Request(picture, question, out / name) for (picture, question), name in zip(pairs, names, strict=True)]
