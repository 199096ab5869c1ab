"""Import and export of a full-size GSVA-7B checkpoint: peak anonymous memory and speed.

Fabricates an official `.bin` (16 GB: frozen weights in bfloat16, trained ones in float32), imports it into a
model folder, exports that again, and checks that the result is the fabricated file, tensor by tensor. Needs 48 GB
of disk.

    python benchmarks/import_7b.py /some/folder              the whole model
    python benchmarks/import_7b.py /some/folder --layers 2   a quick run
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from flax import traverse_util

from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import LazyTensor, as_bits
from grounding_jax.weights.writers import write_torch
from gsva_jax import model
from gsva_jax.config import GsvaConfig
from gsva_jax.weights import export, official_table

# What the release trains, and so leaves in float32 (spec gsva b.1).
TRAINED = ("lora_", "llama/embed/", "llama/head/", "sam/mask_decoder/", "prompt_mlp/")


class PeakMemory:
    """Highest anonymous memory of this process while the block runs, sampled 50 times a second.

    Pages of memory-mapped files are not in it: the system takes them back when it needs them.
    """

    def __enter__(self) -> PeakMemory:
        self.bytes = anonymous_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.02):
            self.bytes = max(self.bytes, anonymous_bytes())


def anonymous_bytes() -> int:
    """Anonymous memory of this process now (Linux)."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def fabricate(path: Path, config: GsvaConfig) -> None:
    """An official checkpoint of this config with arbitrary values."""
    shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    block = np.random.default_rng(0).normal(0.0, 0.02, 1 << 20).astype(np.float32)
    leaves = {}
    for position, (name, leaf) in enumerate(traverse_util.flatten_dict(shapes, sep="/").items()):
        dtype = np.dtype(np.float32 if name.startswith(TRAINED) or "lora_" in name else ml_dtypes.bfloat16)
        values = np.roll(block, position).astype(dtype)
        leaves[name] = LazyTensor(leaf.shape, dtype, functools.partial(tiled, values, leaf.shape))
    tensors = official_table(lora=True).to_torch(leaves, "fabricated")
    write_torch(path, tensors)


def tiled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array of this shape filled with `values` again and again."""
    return np.resize(as_bits(values), shape).view(values.dtype)


def import_official(path: Path, out: Path, config: GsvaConfig) -> None:
    """What `gsva import --format official` does, without a tokenizer."""
    leaves = official_table(lora=True).to_ours(open_weights(path), str(path))
    folder.save(out, leaves, config.to_json())


def measured(what: str, size: int, work: Callable[[], None]) -> None:
    """Runs `work`, which handles `size` bytes, and prints speed and memory."""
    before = anonymous_bytes()
    start = time.perf_counter()
    with PeakMemory() as peak:
        work()
    seconds = time.perf_counter() - start
    print(
        f"{what}: {size / 1e9:.2f} GB in {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s, "
        f"peak anonymous memory {peak.bytes / 1e9:.2f} GB ({before / 1e9:.2f} GB before)",
        flush=True,
    )


def differences(left: Path, right: Path) -> list[str]:
    """Names whose tensors are not bit for bit the same in two checkpoints."""
    a, b = open_weights(left), open_weights(right)
    different = sorted(a.keys() ^ b.keys())
    for name in a.keys() & b.keys():
        same = a[name].dtype == b[name].dtype and np.array_equal(as_bits(a[name].read()), as_bits(b[name].read()))
        different += [] if same else [name]
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to work; a new folder in it is removed at the end")
    parser.add_argument("--layers", type=int, default=32, help="layers of the language model")
    options = parser.parse_args()
    config = GsvaConfig.gsva_7b()
    config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, layers=options.layers))
    work = options.folder / "import_7b"
    work.mkdir(parents=True)
    try:
        source, checkpoint, exported = work / "gsva-7b.bin", work / "checkpoint", work / "exported.bin"
        fabricate(source, config)
        size = source.stat().st_size
        measured("import", size, lambda: import_official(source, checkpoint, config))
        measured("export", size, lambda: export(checkpoint, "official", exported))
        different = differences(source, exported)
        print(f"exported == source, bit for bit: {not different}")
        if different:
            raise SystemExit(f"{len(different)} tensors differ: {', '.join(different[:5])}")
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
