"""How many training examples a second one core makes for GSVA-7B, stage by stage, from files, shards and kept features.

    python benchmarks/data_loading.py                    prints the first table of data_loading.md, in 2 minutes
    python benchmarks/data_loading.py --pictures 16 --seconds 0.5

The data are made for it in a temporary folder, in the public layouts: gRefCOCO with pictures of COCO's size in pixels
and in bytes, each with seven objects (polygons of 40 corners, one object in two parts, one in run lengths) and eight
expressions, of which an example draws five; and label maps of the size of COCO's and of Mapillary's pictures. The files
are in memory before anything is timed: disks and networks do not count. Processor time of all threads is measured,
which depends little on what else the machine does. The goal is 25 examples a second and core at COCO's size.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before jax is imported

import grain
import ml_dtypes
import numpy as np
from PIL import Image, ImageDraw

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.packed.packing import prepare
from grounding_jax.data.picture_resize import clip_crop, sam_input
from grounding_jax.data.scenes.backgrounds import PHOTOGRAPHS, load_photograph
from grounding_jax.files.masks import decode_mask
from grounding_jax.files.pictures import open_picture
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.sharding.mesh import MeshShape, make_mesh
from grounding_jax.training.batches import batches
from grounding_jax.training.mixture import usable
from grounding_jax.training.options import TrainOptions
from gsva_jax import prompts
from gsva_jax.config import GsvaConfig
from gsva_jax.data.arrays import canvas_masks, conversation_row
from gsva_jax.data.features import FeatureFiles
from gsva_jax.data.mixture import PAPER, Family, Mixture
from gsva_jax.data.samplers import draw_sample

GOAL = 25  # examples a second and core
DATASET, COCO_STUFF, MAPILLARY = "grefcoco|unc|train", "cocostuff|train2017", "mapillary|training"
SIZE, LARGE = (480, 640), (2448, 3264)  # of COCO's pictures and, on average, of Mapillary's
NOISE, QUALITY = 9.0, 95  # make pictures of 640 x 480 as large as COCO's files are on average: 160 KB
FINETUNING_CANVAS = 640
BATCH = 8
PHRASE = "the a left right front tall small red man woman dog in on with of holding sitting shirt two hat table"
WORDS = PHRASE.split()


def write_dataset(root: Path, pictures: int, rng: np.random.Generator) -> None:
    """A small gRefCOCO."""
    images, annotations, refs = [], [], []
    for number in range(1, pictures + 1):
        name = f"COCO_train2014_{number:012}.jpg"
        write(root / "refer_seg/images/mscoco/images/train2014" / name, photograph(rng, SIZE))
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        outlines = [outline(rng, SIZE, (40, 200)).round(2).ravel().tolist() for _ in range(8)]
        objects = [*([one] for one in outlines[:5]), outlines[5:7], run_lengths([outlines[7]])]
        first = len(annotations)
        annotations += [{"id": first + i, "segmentation": segmentation} for i, segmentation in enumerate(objects)]
        for meant in ([0], [1], [2], [3, 4], [5], [6], [0, 1, 2], []):
            text = " ".join(rng.choice(WORDS, rng.integers(2, 9)))
            ref = {"ref_id": len(refs), "image_id": number, "split": "train", "sentences": [{"sent": text}]}
            refs.append({**ref, "ann_id": [first + i for i in meant] or [-1]})
    folder = root / "refer_seg" / "grefcoco"
    write(folder / "instances.json", json.dumps({"images": images, "annotations": annotations}).encode())
    write(folder / "grefs(unc).json", json.dumps(refs).encode())


def write_label_maps(root: Path, pictures: int, rng: np.random.Generator) -> None:
    """Some pictures of COCO-Stuff, and a quarter as many of Mapillary Vistas."""
    for number in range(pictures):
        write(root / f"coco/train2017/{number:012}.jpg", photograph(rng, SIZE))
        write(root / f"cocostuff/train2017/{number:012}.png", label_map(rng, SIZE, range(80)))
    labels = [{"readable": f"kind {number}"} for number in range(124)]
    write(root / "mapillary/config_v2.0.json", json.dumps({"labels": labels}).encode())
    for number in range(-(-pictures // 4)):
        write(root / f"mapillary/training/images/{number}.jpg", photograph(rng, LARGE))
        write(root / f"mapillary/training/v2.0/labels/{number}.png", label_map(rng, LARGE, range(124)))


def write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> bytes:
    """A random part of a random photograph, with noise, as JPEG."""
    files = [one for split in PHOTOGRAPHS.values() for one in split]
    chosen = files[rng.integers(len(files))]
    picture = load_photograph(chosen.file).convert("RGB")
    picture = picture.crop(chosen.region) if chosen.region else picture
    (height, width), data = size, io.BytesIO()
    scale = rng.uniform(0.7, 1) * min(picture.width / width, picture.height / height)
    left, top = rng.uniform(0, picture.width - scale * width), rng.uniform(0, picture.height - scale * height)
    part = (left, top, left + scale * width, top + scale * height)
    pixels = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=part))
    pixels = pixels + rng.normal(0, NOISE, (height, width, 1))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=QUALITY)
    return data.getvalue()


def label_map(rng: np.random.Generator, size: tuple[int, int], values: Sequence[int]) -> bytes:
    """A hundred regions over each other, as PNG."""
    picture, data = Image.new("L", size[::-1]), io.BytesIO()
    for _ in range(100):
        corners = outline(rng, size, (size[0] / 30, size[0] / 3))
        ImageDraw.Draw(picture).polygon(list(map(tuple, corners)), fill=int(rng.choice(values)))
    picture.save(data, "PNG")
    return data.getvalue()


def outline(rng: np.random.Generator, size: tuple[int, int], radii: tuple[float, float]) -> np.ndarray:
    """The polygon [40, 2] of an object with a radius between two, in pixels."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    waves = sum(rng.normal(0, 0.15 / k) * np.sin(k * angles + rng.uniform(0, 6)) for k in range(1, 6))
    radius = np.exp(rng.uniform(*np.log(radii))) * (1 + waves)
    corners = rng.uniform(0.1, 0.9, 2) * size[::-1] + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    return np.clip(corners, 0, size[::-1])


def run_lengths(polygons: list[list[float]]) -> dict[str, Any]:
    """Polygons as COCO has crowds."""
    pixels = decode_mask(polygons, SIZE).T.ravel()
    counts = np.diff([0, *(np.flatnonzero(np.diff(pixels)) + 1), pixels.size]).tolist()
    return {"size": list(SIZE), "counts": [0, *counts] if pixels[0] else counts}


def vocabulary(template: str) -> Tokenizer:
    """Has the words of the expressions and of the prompts."""
    rounds = [
        (prompts.list_question(WORDS, i), prompts.list_answer(WORDS, [False] * len(WORDS), i, prompts.RES_JOINER))
        for i in range(min(len(prompts.LIST_QUESTIONS), len(prompts.LIST_ANSWERS)))
    ]
    return tokenizers.train([prompts.TEMPLATES[template].conversation([turn]) for turn in rounds])


def write_features(mixture: Mixture) -> None:
    """Any features of SAM's size for all pictures."""
    sam, files = mixture.model.sam, mixture.features
    features = np.zeros((sam.grid, sam.grid, sam.prompt_width), ml_dtypes.bfloat16)
    for number in range(len(mixture.pictures())):
        files.write(files.place(mixture.pictures()[number]), features)


def cost(function: Callable[[Any], Any], items: Sequence, seconds: float) -> float:
    """Processor seconds of a call, averaged over passes through the items; the first pass only warms up."""
    for item in items:
        function(item)
    calls, begin = 0, time.process_time()
    while time.process_time() < begin + seconds:
        for item in items:
            function(item)
        calls += len(items)
    return (time.process_time() - begin) / calls


def stages(mixture: Mixture, seconds: float) -> Iterator[tuple[str, float]]:
    """What each stage of an example costs, one after the other."""
    model, most = mixture.model, mixture.max_targets
    source, rng = open_dataset(mixture.root, DATASET), np.random.default_rng(1)
    records = [source[i] for i in range(len(source))]
    samples = [draw_sample(record, rng, most) for record in records]
    images = [open_picture(sample.image) for sample in samples]

    def row(sample):
        mixture.fitting(sample, sample.masks)
        conversation_row(model, mixture.tokenizer, sample.conversations, mixture.length, most)

    timed = functools.partial(cost, seconds=seconds)
    yield "file to pixels", timed(lambda sample: open_picture(sample.image), samples)
    side = model.sam.image_size
    yield f"resizing for SAM, {side}", timed(lambda image: sam_input(image, side), images)
    size = model.clip.image_size
    yield f"crop for CLIP, {size}", timed(lambda image: clip_crop(image, size), images)
    yield f"{most} masks", timed(lambda record: draw_sample(record, rng, most), records)
    yield (
        f"masks on a canvas of {mixture.canvas}",
        timed(lambda sample: canvas_masks(sample.masks, mixture.canvas, most), samples),
    )
    yield f"row of {mixture.length} tokens", timed(row, samples)


def whole(mixture: Mixture, seconds: float) -> float:
    """What an example of a mixture of one dataset costs."""
    source, rng = open_dataset(mixture.root, mixture.families[0].datasets[0]), np.random.default_rng(1)
    return cost(lambda number: usable(source, number, rng, make=mixture.example), range(len(source)), seconds)


def share(dataset: str) -> float:
    """Of the paper's mixture."""
    inside = sum(family.rate / len(family.datasets) for family in PAPER if dataset in family.datasets)
    return inside / sum(family.rate for family in PAPER)


def batched(examples: grain.MapDataset, threads: int, count: int) -> float:
    """What an example costs in the batches of the training loop."""
    options = TrainOptions(steps=count, batch_size=BATCH, learning_rate=1.0, threads=threads)
    made = batches(examples, BATCH, range(count // BATCH + 1), make_mesh(MeshShape()), options)
    next(made)
    begin = time.process_time()
    made_batches = sum(1 for _ in made)
    return (time.process_time() - begin) / (made_batches * BATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3, help="of a measurement")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, for all threads from here on
    print("| stage | ms of one core | examples/s and core |\n|---|---:|---:|")

    def report(stage: str, seconds: float) -> None:
        print(f"| {stage} | {1e3 * seconds:.2f} | {1 / seconds:.0f} |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        root, packed, cache = (Path(folder) / name for name in ("data", "packed", "features"))
        write_dataset(root, asked.pictures, np.random.default_rng(0))
        write_label_maps(root, -(-asked.pictures // 4), np.random.default_rng(1))
        for one in prepare(root, packed, [DATASET], workers=1, progress=lambda *_: None):
            if one.problem:
                raise SystemExit(one.problem)
        model = GsvaConfig.gsva_7b()
        mixture = Mixture(str(root), model, vocabulary(model.template), (Family(1, (DATASET,)),))
        for stage, seconds in stages(mixture, asked.seconds):
            report(stage, seconds)
        change = functools.partial(dataclasses.replace, mixture)
        goal = whole(mixture, asked.seconds)
        report("**whole example**", goal)
        report(f"whole, canvas of {FINETUNING_CANVAS}", whole(change(canvas=FINETUNING_CANVAS), asked.seconds))
        report("whole, packed", whole(change(root=str(packed)), asked.seconds))
        kept = change(features=FeatureFiles(str(cache), "benchmark", "bfloat16"))
        write_features(kept)
        report("whole, SAM's features kept", whole(kept, asked.seconds))
        report("whole, SAM's features kept, packed", whole(dataclasses.replace(kept, root=str(packed)), asked.seconds))
        for threads in (1, 2):
            count = int(asked.seconds / goal)
            report(f"in batches of {BATCH}, {threads} thread(s)", batched(mixture(0), threads, count))
        report("whole, a label map", whole(change(families=(Family(1, (COCO_STUFF,)),)), asked.seconds))
        large = whole(change(families=(Family(1, (MAPILLARY,)),)), asked.seconds)
        report("whole, a label map of 3264 x 2448", large)
        mean = goal + share(MAPILLARY) * (large - goal)
        report(f"the paper's mixture: {share(MAPILLARY):.1%} as large, the others as COCO", mean)
    print(f"\nGoal for a whole example: {GOAL} examples/s and core; reached: {1 / goal >= GOAL}")


if __name__ == "__main__":
    main()
