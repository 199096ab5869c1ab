"""Programs that tests start. Limited in processor time and never by the clock: a busy machine changes nothing."""

import concurrent.futures
import os
import subprocess
from collections.abc import Mapping, Sequence

PROCESSOR_SECONDS = 3600  # nothing under test takes a tenth of it


def start(
    command: Sequence[object], environment: Mapping[str, str] | None = None, seconds: int = PROCESSOR_SECONDS, **options
) -> subprocess.Popen:
    """Starts a program in the background; the system ends it by a signal after so many seconds of work.

    Args:
        command: its words.
        environment: what is different from ours.
        seconds: of a processor.
        options: of `subprocess.Popen`.
    """
    limited = ["bash", "-c", f'ulimit -t {seconds}; exec "$@"', "bash", *map(str, command)]
    both = {**os.environ, **(environment or {})}
    return subprocess.Popen(limited, env=both, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(*processes: subprocess.Popen) -> list[subprocess.CompletedProcess]:
    """Waits for programs that may wait for each other: what all print is read at the same time."""
    with concurrent.futures.ThreadPoolExecutor(len(processes)) as pool:
        printed = list(pool.map(subprocess.Popen.communicate, processes))
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *texts)
        for process, texts in zip(processes, printed, strict=True)
    ]


def run(
    command: Sequence[object], environment: Mapping[str, str] | None = None, seconds: int = PROCESSOR_SECONDS, **options
) -> subprocess.CompletedProcess:
    """Starts a program and waits for it; arguments as for `start`."""
    return finish(start(command, environment, seconds, **options))[0]
