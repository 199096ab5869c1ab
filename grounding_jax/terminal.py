"""What the commands show while they work, and where they and JAX may keep their files."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from etils import epath
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from tyro.conf import arg

T = TypeVar("T")

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


def note_undrawable(texts: Iterable[str]) -> None:
    """Says which characters of texts in a picture show as boxes, if any do."""
    from grounding_jax.drawing.lettering import undrawable

    missing = undrawable(" ".join(texts))
    if missing:
        note(f"no font of this system has {missing}: boxes stand for it in the overlay; Noto Sans CJK may help")


def one_line(error: Exception) -> str:
    """An error's message on one line; for one of the operating system, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def working(what: str) -> Iterator[None]:
    """Shows what is being done and for how long, if somebody is watching."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(what, total=None)
        yield


def tracked(items: Sequence[T], what: str) -> Iterator[T]:
    """The items, with a bar beneath what is printed meanwhile, if somebody is watching."""
    printed = Console()
    console = printed if printed.is_terminal else Console(stderr=True)
    with Progress(
        *COUNTED,
        console=console,
        transient=True,
        redirect_stdout=printed.is_terminal,
        disable=not console.is_terminal,
    ) as progress:
        yield from progress.track(items, description=what)


@contextlib.contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Bars of several things at once; gives the function that is told (what, how much is done, of how much)."""
    printed = Console()
    console = printed if printed.is_terminal else Console(stderr=True)
    bars: dict[str, TaskID] = {}
    with Progress(*COUNTED, console=console, transient=True, disable=not console.is_terminal) as progress:

        def count(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what)
            progress.update(bars[what], completed=done, total=total, visible=done < total)

        yield count


@contextlib.contextmanager
def copying(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar for bytes; gives the function that is told (bytes done, bytes in all)."""
    console = Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


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
    probe = folder / f".{os.getpid()}.probe"
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
