"""What long work tells: lines at a pace of their own in a log file, bars on a terminal."""

import functools
import io
import logging
import os
import struct
import sys
import warnings
import zlib

import jax.numpy as jnp
import pytest
from etils import epath
from PIL import Image
from rich.console import Console

from grounding_jax import terminal
from grounding_jax.evaluation.progress import PartialResults
from grounding_jax.terminal import ByteLines, Lines, copying, counting, quiet_libraries, tracked
from grounding_jax.training.log import Log, Work

pytestmark = pytest.mark.quick


class Clock:
    """Goes when it is told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def told(capsys) -> list[str]:
    printed = capsys.readouterr()
    assert printed.out == "", "a line about progress is no result"
    return printed.err.splitlines()


def test_lines_keep_their_pace(clock, capsys):
    """An item every half second: a line after 2 s, then one every 15 s, and the last."""
    lines = Lines(first=2, every=15, clock=clock)
    lines("packing", 0, 100)
    for done in range(1, 101):
        clock.now += 0.5
        lines("packing", done, 100)
    assert told(capsys) == [
        "packing: 4/100  2/s  0:00:48 left",
        "packing: 34/100  2/s  0:00:33 left",
        "packing: 64/100  2/s  0:00:18 left",
        "packing: 94/100  2/s  0:00:03 left",
        "packing: 100/100  in 0:00:50",
    ]


def test_the_rate_is_that_since_the_last_line(clock, capsys):
    """What was done before, and a slow beginning, do not count; work that comes with words has a line at once."""
    lines = Lines(first=2, every=15, clock=clock)
    lines("run", 1000, 5000, "compiling")
    clock.now += 100
    lines("run", 1010, 5000, "loss 2.500")
    clock.now += 20
    lines("run", 1060, 5000, "loss 1.250")
    assert told(capsys) == [
        "run: 1,000/5,000  compiling",
        "run: 1,010/5,000  loss 2.500  0.10/s  11:05:00 left",
        "run: 1,060/5,000  loss 1.250  2.50/s  0:26:16 left",
    ]


def test_short_work_has_no_line(clock, capsys):
    lines = Lines(first=2, every=15, clock=clock)
    for done in range(11):
        lines("segmenting", done, 10)
        clock.now += 0.1
    lines("nothing to do", 4, 4, "compiling")
    assert told(capsys) == []


def test_several_things_have_their_own_lines(clock, capsys):
    lines = Lines(first=2, every=15, clock=clock)
    for what in ("one", "two"):
        lines(what, 0, 8)
    clock.now += 4
    for what, done in (("one", 2), ("two", 4), ("one", 3), ("two", 8), ("two", 8)):
        lines(what, done, 8)
    assert told(capsys) == ["one: 2/8  0.50/s  0:00:12 left", "two: 4/8  1/s  0:00:04 left", "two: 8/8  in 0:00:04"]


def test_bytes_have_units(clock, capsys):
    lines = ByteLines(first=0, every=0, clock=clock)
    lines("writing", 0, 13_500_000_000)
    clock.now += 10
    lines("writing", 3_500_000_000, 13_500_000_000)
    assert told(capsys)[-1] == "writing: 3.5 GB/13.5 GB  350.0 MB/s  0:00:29 left"


@pytest.fixture
def every_line(monkeypatch) -> None:
    """Nothing has a pace."""
    monkeypatch.setattr(Lines, "__init__", functools.partialmethod(Lines.__init__, first=0, every=0, clock=lambda: 0.0))


@pytest.mark.usefixtures("every_line")
def test_lines_come_where_nobody_watches(capsys):
    assert list(tracked("ab", "letters")) == ["a", "b"]
    with copying("writing") as copied:
        copied(5, 10)
    with counting(shown=False) as count:
        count("another process", 1, 2)
    assert told(capsys) == ["letters: 0/2", "letters: 1/2", "letters: 2/2  in 0:00:00", "writing: 5 bytes/10 bytes"]


@pytest.mark.usefixtures("every_line")
def test_a_training_and_an_evaluation_tell_how_far_they_are(tmp_path, capsys):
    run = epath.Path(tmp_path) / "run"
    run.mkdir()
    with Log(run, 20, 10, 4, Work()) as log:
        log.write(15, {"loss": jnp.float32(0.5)})
    parts = PartialResults(None, {}, 3, (0, 1))
    parts.work("evaluating", ([{"index": index}] for index in range(3)))
    compiling, training, *evaluation = told(capsys)
    assert compiling == "run: 10/20  compiling"
    assert training.startswith("run: 15/20  loss 0.500  ") and training.endswith(" examples/s")
    assert evaluation == [*(f"evaluating: {done}/3" for done in range(3)), "evaluating: 3/3  in 0:00:00"]


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch, capsys):
    screen = io.StringIO()
    monkeypatch.setattr(
        terminal, "Console", lambda stderr=False: Console(file=screen, force_terminal=True, force_interactive=True)
    )
    assert list(tracked("ab", "letters")) == ["a", "b"]
    assert "letters" in screen.getvalue() and "0/2" in screen.getvalue()
    assert told(capsys) == []


@pytest.fixture
def quiet(monkeypatch) -> None:
    """As in a command; the settings of the tests come back."""
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(sys, "warnoptions", [])
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)  # JAX has set its own
    with warnings.catch_warnings():
        quiet_libraries()
        quiet_libraries()  # a second command in the same process adds nothing
        yield


@pytest.mark.usefixtures("quiet")
def test_libraries_are_quiet_but_for_errors(capsys):
    Image.open(io.BytesIO(large_png())).close()
    logging.getLogger("absl").warning("a remark for developers")
    exec("import warnings; warnings.warn('nearly black')", {"__name__": "grounding_jax.files.pictures"})
    logging.getLogger("gsva_jax.data.mixture").warning("left out: %s", "a picture")
    logging.getLogger("orbax.checkpoint").error("no room")
    logging.getLogger("gsva_jax.data.mixture").info("nothing of interest")
    assert told(capsys) == ["nearly black", "left out: a picture", "no room"]
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "3"


@pytest.mark.usefixtures("quiet")
def test_python_s_own_switch_brings_warnings_back(monkeypatch):
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    warnings.resetwarnings()
    quiet_libraries()
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(large_png())).close()


def large_png() -> bytes:
    """The beginning of a picture that Pillow warns of."""
    size = struct.pack(">II", 10_000, 10_000) + bytes([8, 2, 0, 0, 0])
    chunk = b"IHDR" + size
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"
