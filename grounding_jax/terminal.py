"""What the commands show while they work, and where they and JAX may keep their files."""

from __future__ import annotations

import contextlib
import datetime
import logging
import math
import os
import sys
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Protocol, TypeVar

from etils import epath
from rich.console import Console
from rich.filesize import decimal
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from tyro.conf import arg

T = TypeVar("T")

_LONGEST = 1000  # letters of an error: names from outside may be of any length

OUR_PACKAGES = ("grounding_jax", "gsva_jax", "gella_jax")

# A bar of things that are counted.
COUNTED = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def optional(metavar: str) -> object:
    """Describes an option that may be left out: its help ends without "(default: None)"."""
    return arg(metavar=metavar, help_behavior_hint="")


# In a command: what a model is computed in.
Dtype = Annotated[Literal["bfloat16", "float32"] | None, optional("{bfloat16,float32}")]


def say(line: object) -> None:
    """Prints a result; nothing is wrapped or taken for markup."""
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(line)


def note(line: str) -> None:
    """Prints what is not a result: to the error stream."""
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(line)


def one_line(error: Exception) -> str:
    """An error's message on one line; for one of the operating system, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    line = " ".join(str(error).split()) or type(error).__name__
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 2 :]}"


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows what is being done and for how long, if somebody is watching."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


class Counter(Protocol):
    """Is told how far something is."""

    def __call__(self, what: str, done: int, total: int, more: str = "") -> None:
        """Takes the name of the work, how much is done, of how much, and words such as a loss."""


class _Mark(NamedTuple):
    """What was known of some work when a line was written, or when it began."""

    begin: float
    time: float
    done: int
    due: float
    written: bool = False


class Lines:
    """Tells how far long work is where nobody watches a bar, such as in a log file.

    The first line comes after a moment, so that short work has none, or at once where it comes with words; others
    follow every so often, and a last one ends what had a first.

    Args:
        first: seconds until the first line.
        every: seconds between two lines at least.
        clock: gives the seconds.
    """

    def __init__(self, first: float = 2, every: float = 15, clock: Callable[[], float] = time.monotonic):
        self._first, self._every, self._clock = first, every, clock
        self._marks: dict[str, _Mark] = {}
        self._lock = threading.Lock()  # datasets are packed in threads

    def __call__(self, what: str, done: int, total: int, more: str = "") -> None:
        """Writes a line if it is time; see `Counter`."""
        with self._lock:
            now = self._clock()
            mark = self._marks.setdefault(what, _Mark(now, now, done, now if more else now + self._first))
            ended = done >= total
            if math.isinf(mark.due) or (not mark.written if ended else now < mark.due):
                return
            due = math.inf if ended else now + self._every
            self._marks[what] = _Mark(mark.begin, now, done, due, written=True)
        words = [f"{what}: {self.amount(done)}/{self.amount(total)}", more]
        if ended:
            words.append(f"in {_duration(now - mark.begin)}")
        elif done > mark.done and now > mark.time:
            rate = (done - mark.done) / (now - mark.time)
            words += [f"{self.amount(rate)}/s", f"{_duration((total - done) / rate)} left"]
        note("  ".join(filter(None, words)))

    @staticmethod
    def amount(number: float) -> str:
        """A number of things."""
        return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.2f}"


class ByteLines(Lines):
    """Lines about bytes."""

    @staticmethod
    def amount(number: float) -> str:
        """A number of bytes."""
        return decimal(int(number))


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds."""
    return str(datetime.timedelta(seconds=round(seconds)))


def tracked(items: Sequence[T], what: str, shown: bool = True) -> Iterator[T]:
    """The items; meanwhile it is shown how many are done, see `counting`."""
    with counting(shown=shown) as count:
        count(what, 0, len(items))
        for done, item in enumerate(items, 1):
            yield item
            count(what, done, len(items))


@contextlib.contextmanager
def counting(
    columns: Sequence[ProgressColumn] = COUNTED, lines: type[Lines] = Lines, keep: bool = False, shown: bool = True
) -> Iterator[Counter]:
    """Shows how far several things are: as bars beneath what is printed if somebody is watching, else as lines.

    Args:
        columns: columns of a bar.
        lines: writer of the lines.
        keep: leave the bars when they are full.
        shown: by this process; the others of several are silent.
    """
    printed = Console()
    console = printed if printed.is_terminal else Console(stderr=True)
    if not shown or not console.is_terminal:
        yield lines() if shown else lambda what, done, total, more="": None
        return
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console, transient=not keep, redirect_stdout=printed.is_terminal) as progress:

        def count(what: str, done: int, total: int, more: str = "") -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total, completed=done, more=more)
            progress.update(bars[what], completed=done, total=total, visible=keep or done < total, more=more)

        yield count


@contextlib.contextmanager
def copying(what: str) -> Iterator[Callable[[int, int], None]]:
    """Shows how many bytes are written, see `counting`; gives the function that is told (bytes done, bytes in all)."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with counting(columns, ByteLines, keep=True) as count:
        yield lambda done, total: count(what, done, total)


class _Log(logging.Handler):
    """Prints what our own modules warn of and what others take for an error."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record that means something to who runs a command."""
        if record.levelno >= logging.ERROR or record.name.partition(".")[0] in OUR_PACKAGES:
            note(record.getMessage())


def quiet_libraries() -> None:
    """Keeps what libraries say to their developers out of a command's output; errors are exceptions, or shown.

    Before JAX is imported, which reads the variable then. What is set already rules: TF_CPP_MIN_LOG_LEVEL, Python's -W.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # XLA's alarms about slow compiling are "errors"
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        warnings.filterwarnings("default", module=rf"({'|'.join(OUR_PACKAGES)})\b")
        warnings.showwarning = lambda message, *_: note(str(message))
    if not any(isinstance(handler, _Log) for handler in logging.root.handlers):
        logging.root.addHandler(_Log(logging.WARNING))  # absl would add one of its own, with its own format


def keep_compiled_programs() -> None:
    """Lets JAX keep compiled programs in the user's cache folder, so that the next command starts quickly.

    JAX's own variables rule: JAX_COMPILATION_CACHE_DIR moves it, JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache / "grounding_jax" / "jax"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # a small model has small programs


@contextlib.contextmanager
def loading(checkpoint: str) -> Iterator[None]:
    """Around loading a model: shows what is being done, and says how long it took."""
    begin = time.perf_counter()
    with working(f"loading {checkpoint}"):
        keep_compiled_programs()
        yield
    note(f"loaded {checkpoint} in {time.perf_counter() - begin:.1f} s")


def prepare_folder(path: epath.PathLike) -> epath.Path:
    """Makes a folder and tries it out, so that nobody waits for results that can't be kept.

    Raises:
        ValueError: nothing can be written there.
    """
    folder = epath.Path(path)
    probe = folder / f".{uuid.uuid4().hex}.probe"  # containers share pids
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"can't write to the folder {folder}: {error.strerror or error}") from error
    return folder


def show_report(report: Mapping[str, object], table: str | None) -> None:
    """Prints the numbers of an evaluation, and below them a table in Markdown if there is one."""
    width = max(map(len, report))
    for name, value in report.items():
        say(f"{name:{width}}  {f'{value:.4f}' if isinstance(value, float) else value}")
    if table:
        Console().print(Markdown(table))
