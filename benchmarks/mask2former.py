"""Mask2Former's two decoders against transformers' PyTorch: time, memory and results from the same weights and maps.

    python benchmarks/mask2former.py                  prints a table of mask2former.md, in 2 minutes
    python benchmarks/mask2former.py --backbone swin_l --turns 3

One picture, float32, on a CPU. Each side is a process of its own with the same cores and number of threads; they take
turns, so that both have the same neighbours on the machine, and what is compared is the median over turns of a ratio.
Processor time of all threads depends little on what else the machine does; wall time is there beside it. Memory is the
most that a pass has beside weights and inputs, by the kernel's count of resident pages. Our decoders are asked for what
an answer needs, the last prediction, and for those of all layers, which transformers always makes.

Fails if we are slower or need more memory.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

CHANNELS = {"swin_t": 96, "swin_l": 192}
STRIDES = (4, 8, 16, 32)
QUERIES, CLASSES = 100, 1
KINDS = {"last": "ours, last prediction", "all": "ours, all layers", "torch": "transformers, all layers"}
PARTS = ("queries", "class_logits", "mask_logits")
WEIGHTS, MAPS, ANSWER = "weights.safetensors", "maps.npz", "{}.npz"


@dataclasses.dataclass(frozen=True)
class Options:
    """What to compare.

    Attributes:
        backbone: whose channels the maps have.
        side: of the picture in pixels.
        threads: and cores, of each side.
        turns: of which the medians are.
        seed: of weights and maps.
        work, kind: for the processes that this one starts.
    """

    backbone: Literal["swin_t", "swin_l"] = "swin_t"
    side: int = 800
    threads: int = 1
    turns: int = 7
    seed: int = 0
    work: Path | None = None
    kind: Literal["last", "all", "torch"] | None = None


def torch_model(backbone: str):
    """transformers' model; of its backbone only the channels matter."""
    import transformers

    swin = transformers.SwinConfig(
        embed_dim=CHANNELS[backbone],
        depths=[1] * 4,
        num_heads=[3] * 4,
        out_features=[f"stage{i}" for i in (1, 2, 3, 4)],
    )
    config = transformers.Mask2FormerConfig(backbone_config=swin, num_queries=QUERIES, num_labels=CLASSES)
    return transformers.Mask2FormerForUniversalSegmentation(config).eval()


def write_inputs(options: Options) -> None:
    """Weights in transformers' layout, whose random kernels make queries look at different places, and random maps."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(options.seed)  # of the biases, too, which the model draws itself
    model = torch_model(options.backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5)
    inside = "model.pixel_level_module.encoder."
    save_file({k: v for k, v in model.state_dict().items() if not k.startswith(inside)}, options.work / WEIGHTS)
    rng, C = np.random.default_rng(options.seed), CHANNELS[options.backbone]
    sides = [-(-options.side // stride) for stride in STRIDES]
    maps = [rng.standard_normal((1, side, side, C * 2**i), np.float32) for i, side in enumerate(sides)]
    np.savez(options.work / MAPS, *maps)


def torch_pass(options: Options) -> Callable[[], list[np.ndarray]]:
    """A function that runs transformers' decoders."""
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(options.threads)
    model = torch_model(options.backbone)
    model.load_state_dict(load_file(options.work / WEIGHTS), strict=False)
    with np.load(options.work / MAPS) as stored:
        maps = [torch.from_numpy(x).permute(0, 3, 1, 2).contiguous() for x in stored.values()]

    @torch.no_grad()
    def run():
        pixels = model.model.pixel_level_module.decoder(maps)
        made = model.model.transformer_module(
            pixels.multi_scale_features, pixels.mask_features, output_hidden_states=True
        )
        queries = made.intermediate_hidden_states[-1].transpose(0, 1)
        return [x.numpy() for x in (queries, model.class_predictor(queries), made.masks_queries_logits[-1])]

    return run


def our_pass(options: Options) -> Callable[[], list[np.ndarray]]:
    """A function that runs our decoders, compiled before."""
    import jax

    from grounding_jax.models import mask2former
    from grounding_jax.weights import folder
    from grounding_jax.weights.readers import open_weights
    from grounding_jax.weights.tables import mask2former as weights

    leaves = weights.transformers().to_ours(open_weights(options.work / WEIGHTS), WEIGHTS)
    config, params = weights.config(leaves), jax.device_put(folder.to_params(leaves))
    with np.load(options.work / MAPS) as stored:
        maps = jax.device_put(list(stored.values()))

    def predict(params, maps):
        last, earlier = mask2former.predict(config, params, maps)
        return last, earlier if options.kind == "all" else ()

    compiled = jax.jit(predict).lower(params, maps).compile()

    def run():
        last, _ = jax.block_until_ready(compiled(params, maps))
        return [np.asarray(getattr(last, name)) for name in PARTS]

    return run


def serve(options: Options) -> None:
    """Runs a pass for every line that comes in, and writes what it took; the first leaves its result in a file."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    run, stored = (torch_pass if options.kind == "torch" else our_pass)(options), False
    print("ready", flush=True)
    for _ in sys.stdin:
        before = free_memory()
        wall, processor = time.perf_counter(), time.process_time()
        result = run()
        taken = time.process_time() - processor, time.perf_counter() - wall, resident("VmHWM") - before
        if not stored:
            np.savez(options.work / ANSWER.format(options.kind), *result)
        stored = True
        del result
        print(json.dumps(taken), flush=True)


def free_memory() -> int:
    """Gives back what is not in use and starts the kernel's maximum anew; bytes that are resident now (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def resident(name: str) -> int:
    """Bytes that the kernel counts for this process."""
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def start(options: Options, kind: str) -> subprocess.Popen:
    """The process of one side, ready for its turns. XLA has as many threads as NPROC says."""
    command = [sys.executable, __file__]
    for name, value in dataclasses.asdict(dataclasses.replace(options, kind=kind)).items():
        command += [f"--{name}", str(value)]
    threads = {name: str(options.threads) for name in ("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    process = subprocess.Popen(
        command, env={**os.environ, "JAX_PLATFORMS": "cpu", **threads}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{kind}: {process.communicate()[1]}")
    return process


def turn(process: subprocess.Popen) -> tuple[float, float, float]:
    """Processor seconds, wall seconds and bytes of one pass."""
    process.stdin.write("go\n")
    process.stdin.flush()
    return tuple(json.loads(process.stdout.readline()))


def distance(work: Path, kind: str) -> dict[str, float]:
    """How far the last prediction is from transformers', at most; and how large that is."""
    with np.load(work / ANSWER.format(kind)) as ours, np.load(work / ANSWER.format("torch")) as theirs:
        pairs = zip(PARTS, ours.values(), theirs.values(), strict=True)
        return {name: (float(np.abs(a - b).max()), float(np.abs(b).max())) for name, a, b in pairs}


def main(options: Options) -> None:
    """Prints a table, and fails if we are slower or need more memory."""
    with tempfile.TemporaryDirectory() as work:
        options = dataclasses.replace(options, work=Path(work))
        write_inputs(options)
        sides = {kind: start(options, kind) for kind in KINDS}
        for side in sides.values():
            turn(side)
        turns = [{kind: turn(side) for kind, side in sides.items()} for _ in range(options.turns)]
        for side in sides.values():
            side.communicate()
        distances = {kind: distance(options.work, kind) for kind in ("last", "all")}
    report(options, turns, distances)


def report(options: Options, turns: list[dict], distances: dict) -> None:
    print(f"{options.backbone}, {options.side} px, {QUERIES} queries, threads and cores: {options.threads}\n")
    print("| decoders | processor s | wall s | memory, GiB | their processor time / ours | wall | memory |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    reached = True
    for kind, name in KINDS.items():
        taken = [statistics.median(one[kind][i] for one in turns) for i in range(3)]
        ratios = [statistics.median(one["torch"][i] / one[kind][i] for one in turns) for i in range(3)]
        reached &= min(ratios[0], ratios[2]) >= 1
        cells = f"{taken[0]:.2f} | {taken[1]:.2f} | {taken[2] / 2**30:.2f} | {' | '.join(f'{r:.2f}' for r in ratios)}"
        print(f"| {name} | {cells} |")
    print(f"\nMedians of {options.turns} turns. Other work on the machine: load {os.getloadavg()[0]:.1f}.")
    for kind, parts in distances.items():
        far = ", ".join(f"{name} {most:.1e} (of {size:.1f})" for name, (most, size) in parts.items())
        print(f"{KINDS[kind]} - transformers, at most: {far}")
    print(f"Goal, not slower and no more memory; reached: {reached}")
    if not reached:
        raise SystemExit(1)


if __name__ == "__main__":
    asked = tyro.cli(Options)
    (serve if asked.kind else main)(asked)
