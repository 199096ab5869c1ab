"""How long `gsva segment` takes: from the shell to the files with nothing compiled, again, and once a model is loaded.

    python benchmarks/segment.py                     the shipped tiny model
    python benchmarks/segment.py --checkpoint CKPT   another one

Goals for tiny on two CPU cores: 15 s for the first, 0.5 s for the last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gsva_jax
from grounding_jax.files.pictures import open_picture
from gsva_jax.cli.demo import PICTURES
from gsva_jax.results import save_results

PICTURE, EXPRESSIONS = PICTURES["photo"]


def from_the_shell(checkpoint: str, out: Path, cache: Path) -> float:
    """Seconds of a whole command, with compiled programs kept in ``cache``."""
    command = [sys.executable, "-m", "gsva_jax", "segment", str(PICTURE), *EXPRESSIONS]
    begin = time.perf_counter()
    subprocess.run(
        [*command, "--checkpoint", checkpoint, "--out", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)},
    )
    return time.perf_counter() - begin


def in_one_process(checkpoint: str, out: Path, calls: int) -> list[float]:
    """Seconds of calls one after the other, each from the picture's file to the written results."""
    gsva, seconds = gsva_jax.load(checkpoint), []
    for _ in range(calls):
        begin = time.perf_counter()
        image = open_picture(PICTURE)
        save_results(out, image, gsva.segment(image, EXPRESSIONS).targets)
        seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="tiny")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out, cache = Path(folder) / "out", Path(folder) / "cache"
        print(
            f"from the shell, nothing compiled:   {from_the_shell(options.checkpoint, out, cache):6.2f} s", flush=True
        )
        print(
            f"from the shell, programs kept:      {from_the_shell(options.checkpoint, out, cache):6.2f} s", flush=True
        )
        first, second, *later = in_one_process(options.checkpoint, out, 6)
        print(f"in one process, first call:         {first:6.2f} s")
        print(f"in one process, second call:        {second:6.2f} s")
        print(f"in one process, median of 4 later:  {statistics.median(later):6.2f} s")


if __name__ == "__main__":
    main()
