"""What the cases have in common: each is a program that ends with status 1 where something goes wrong."""

import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden" / "gsva"
PHOTO = REPOSITORY / "gsva_jax" / "assets" / "photo_scene.jpg"
TURTLE = [405, 148, 338, 205, 361, 243, 469, 224, 479, 205, 416, 148]  # a polygon in a picture of 600 x 400


def refused(call: Callable[[], Any], *words: str) -> None:
    """Ends the program unless a call raises ValueError or OSError in one line that has these words."""
    try:
        value = call()
    except (ValueError, OSError) as error:
        line = str(error)
        print("refused:", line)
        lacking = [word for word in words if word not in line]
        if lacking or "\n" in line:
            sys.exit(f"the line lacks {lacking}, or is not one")
    else:
        sys.exit(f"should have been refused with {words}, but gave {value!r}")


def same(what: str, value: Any, right: Any) -> None:
    """Ends the program unless a value is the right one."""
    print(what, value)
    if value != right:
        sys.exit(f"{what}: {value!r}, but {right!r} would be right")


class Trials:
    """Calls that may fail in one line, but not otherwise: each runs in a process of its own, since some could kill it.

    Attributes:
        total, bad: how many there were, and how many of them ended in another error than ValueError or OSError, died,
            or needed more processor time or memory than the limits below.
    """

    MOST_MEGABYTES = 2048
    MOST_SECONDS = 60  # of the processor: a busy machine changes nothing

    def __init__(self):
        resource.setrlimit(resource.RLIMIT_AS, (12 << 30,) * 2)
        self.total = self.bad = 0

    def __call__(self, name: str, call: Callable[[], Any]) -> None:
        """Tries a call, and prints how it ended."""
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            os._exit(self._child(name, call))
        status = os.waitpid(pid, 0)[1]
        self.total += 1
        self.bad += status != 0
        if os.WIFSIGNALED(status):
            print(f"{name:34} KILLED by signal {os.WTERMSIG(status)}, by {signal.SIGXCPU} after too long")

    def finish(self) -> None:
        """Prints the sums, and ends the program with 1 if one was bad."""
        print(f"{self.total} cases, {self.bad} bad")
        sys.exit(self.bad > 0)

    def _child(self, name: str, call: Callable[[], Any]) -> int:
        resource.setrlimit(resource.RLIMIT_CPU, (self.MOST_SECONDS,) * 2)
        ended, bad = "", False
        try:
            ended = f"ok {str(call())[:90]}"
        except (ValueError, OSError) as error:
            ended, bad = f"refused {str(error)[:150]}", "\n" in str(error)
        except BaseException as error:
            ended, bad = f"TRACEBACK {error!r:.100} {traceback.extract_tb(error.__traceback__)[-1]}", True
        megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{name:34} {megabytes:5} MB {ended}", flush=True)
        return bad or megabytes > self.MOST_MEGABYTES
