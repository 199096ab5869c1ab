"""Runs what hostile files may kill: many calls, of which each may fail in one line, but not otherwise."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

MOST_MEGABYTES = 2048
MOST_SECONDS = 60  # of the processor: a busy machine changes nothing
_KINDS = ("refused", "read", "traceback", "hang", "killed by a signal", "executed")
_GOOD = ("refused", "read")


class _Hang(BaseException):
    """A call has taken too much of the processor."""


def run_trials(calls: Mapping[str, Callable[[], Any]], proof: Path) -> NoReturn:
    """Runs all calls, prints how each ended that was not refused, and a table; ends the program with 1 if one was bad.

    They run in one process after the other, in a child; where that dies, another child goes on behind the call.

    Args:
        calls: by name; a call is refused by ValueError or OSError.
        proof: the file that code in a hostile file would make.
    """
    counts, peak, begun, names = dict.fromkeys(_KINDS, 0), 0, time.time(), list(calls)
    while names:
        for name, kind, megabytes, text in _results({name: calls[name] for name in names}, proof):
            names.remove(name)
            counts[kind] += 1
            peak = max(peak, megabytes)
            if kind != "refused" or megabytes > MOST_MEGABYTES:
                print(f"{name:40} {megabytes:5} MB {kind}: {text}", flush=True)
    bad = sum(counts[kind] for kind in _KINDS if kind not in _GOOD) + (peak > MOST_MEGABYTES)
    print(f"\n{len(calls)} files in {time.time() - begun:.0f} s")
    for kind, count in counts.items():
        print(f"{kind:20} {count:6}")
    print(f"{'peak memory, MB':20} {peak:6}")
    sys.exit(bad > 0)


def _results(calls: Mapping[str, Callable[[], Any]], proof: Path):
    """How calls ended, ``(name, kind, megabytes, text)``, up to the first that kills the process."""
    ours, theirs = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        with os.fdopen(theirs, "w") as out:
            _child(calls, proof, out)
        os._exit(0)
    os.close(theirs)
    names, unread = iter(calls), b""
    current, hung, before = next(names), False, 0.0
    while True:
        if not select.select([ours], [], [], 5)[0]:
            if _seconds(pid) - before > 2 * MOST_SECONDS:  # in C, where no exception can be raised
                hung = True
                os.kill(pid, signal.SIGKILL)
            continue
        received = os.read(ours, 2**16)
        if not received:
            break
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            yield tuple(json.loads(line))
            current = next(names, None)
        before = _seconds(pid)
    os.close(ours)
    status = os.waitpid(pid, 0)[1]
    if current is not None:
        text = f"by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"with status {status}"
        yield current, "hang" if hung else "killed by a signal", 0, text


def _child(calls: Mapping[str, Callable[[], Any]], proof: Path, out) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30,) * 2)
    signal.signal(signal.SIGPROF, _raise_hang)
    for name, call in calls.items():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        kind, text = _ended(call)
        if proof.exists():
            proof.unlink()
            kind = "executed"
        (peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        print(json.dumps([name, kind, int(peak.split()[1]) // 1024, text]), file=out, flush=True)


def _ended(call: Callable[[], Any]) -> tuple[str, str]:
    signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
    try:
        return "read", str(call())[:150]
    except (ValueError, OSError) as error:
        line = str(error)
        return "traceback" if "\n" in line else "refused", line[:300]
    except _Hang:
        return "hang", f"after {MOST_SECONDS} s of the processor"
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{error!r:.150} in {where.filename}:{where.lineno}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _raise_hang(*_: object) -> None:
    raise _Hang


def _seconds(pid: int) -> float:
    """Processor seconds of a process so far; 0 when it is gone."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
