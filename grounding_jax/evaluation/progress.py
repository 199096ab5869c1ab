"""What an evaluation has done so far, kept in files beside its report until that is written.

Every process has a file of its own: a line that says which evaluation it is of, then one line a picture, with the
picture's number in the dataset. Putting them together by these numbers counts no picture twice, on however many
processes and however often interrupted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from grounding_jax.files import records
from grounding_jax.files.records import to_json
from grounding_jax.files.text import read_text
from grounding_jax.files.writing import write_text
from grounding_jax.sharding.hosts import wait_for_all
from grounding_jax.terminal import counting

_NAMED = 8  # pictures that an error names, of those that are missing


class PartialResults:
    """An evaluation that is under way, as one of the processes that share it sees it.

    Attributes:
        own: the numbers of this process's pictures.
        done: its results, each a dict with its ``index``.
        is_first: True if this process writes the results.
    """

    def __init__(self, report: epath.PathLike | None, identity: dict, num_images: int, process: tuple[int, int]):
        """Takes up what an earlier call has left.

        Args:
            report: the file beside which FILE.partial.jsonl is kept, or FILE.I-of-N.partial.jsonl of each of several
                processes; None keeps nothing.
            identity: tells evaluations apart.
            num_images: number of images in the dataset.
            process: (I, N).

        Raises:
            ValueError: what is there belongs to another evaluation, or several processes have no file.
        """
        index, count = process
        if report is None and count > 1:
            raise ValueError(f"{count} processes share their results through files: name one, such as --json FILE")
        names = [f"{k}-of-{count}.partial" for k in range(count)] if count > 1 else ["partial"]
        self._files = [epath.Path(report).with_suffix(f".{name}.jsonl") for name in names] if report else []
        self._own_file = self._files[index] if report else None
        self._identity = {**identity, "num_images": num_images}
        self._num_images = num_images
        self.own = range(num_images)[index::count]
        self.done = self._resume() if report else {}
        self.is_first = index == 0

    @property
    def todo(self) -> list[int]:
        """The numbers of this process's pictures that are not done."""
        return [index for index in self.own if index not in self.done]

    def work(self, title: str, batches: Iterable[Sequence[dict]]) -> None:
        """Keeps what pictures give, batch by batch, and shows how far it is."""
        with counting(keep=True, shown=self.is_first) as count:
            count(title, len(self.done), len(self.own))
            for lines in batches:
                self.add(lines)
                count(title, len(self.done), len(self.own))

    def add(self, lines: Sequence[dict]) -> None:
        """Keeps what some pictures gave."""
        if self._own_file:
            with self._own_file.open("a") as file:
                file.write("".join(to_json(line) + "\n" for line in lines))
        self.done |= {line["index"]: line for line in lines}

    def gather(self) -> list[dict]:
        """What the pictures of all processes gave, in the order of their numbers, once each has done its part.

        Raises:
            ValueError: names the pictures that are missing.
        """
        wait_for_all("every process has done its part of the evaluation")
        done = dict(self.done)
        for file in self._files:
            if file != self._own_file and file.exists():
                done |= self._read(file)
        missing = [str(index) for index in range(self._num_images) if index not in done]
        if missing:
            named = ", ".join(missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
            raise ValueError(
                f"{len(missing)} of {self._num_images} pictures are in no file beside {self._own_file}: {named}; "
                f"start the evaluation again, with {len(self._files)} processes on the same files"
            )
        return [done[index] for index in range(self._num_images)]

    def finish(self, texts: Mapping[epath.PathLike, str]) -> None:
        """Writes files, and deletes those of what was under way once all processes have read them."""
        for place, text in texts.items():
            write_text(place, text)
        wait_for_all("every process has read the parts of the evaluation")
        if self.is_first:
            for file in self._files:
                file.unlink()

    def _resume(self) -> dict[int, dict]:
        text = read_text(self._own_file) if self._own_file.exists() else ""
        complete = text[: text.rfind("\n") + 1]  # it may have been interrupted in the middle of a line
        if not complete:
            self._own_file.parent.mkdir(parents=True, exist_ok=True)
            complete = to_json(self._identity) + "\n"
        if complete != text:
            write_text(self._own_file, complete)
        return self._read(self._own_file)

    def _read(self, file: epath.Path) -> dict[int, dict]:
        """What a file has, by the numbers of the pictures."""
        try:
            (_, before), *lines = records.read_lines(file, dict[str, Any], '{"index": 0}')
        except ValueError as error:
            raise ValueError(f"{file} is damaged: delete it to start anew ({error})") from error
        for key, value in self._identity.items():
            if before.get(key) != value:
                raise ValueError(
                    f"{file} is from an unfinished evaluation with {key} {before.get(key)!r}, this one has {value!r}: "
                    "finish that one first, or delete the file to start anew"
                )
        return {line["index"]: line for _, line in lines}
