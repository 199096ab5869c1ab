"""Reads the annotations of a large dataset, with declared types and as untyped JSON: processor seconds and memory.

    python benchmarks/annotations.py [--megabytes 500]

A synthetic instances.json is written as COCO has it, polygons of 20 to 60 numbers. Two processes read it one after the
other and keep what a split of a tenth of it needs: `json` as it was done before, all of it with `json.loads`, and
`records` as `ReferSource` does, which skips masks until they are used. Both then decode the masks that they keep.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from grounding_jax.data import coco
from grounding_jax.data.sources.refer import InstancesFile
from grounding_jax.files import records

KEPT = 10  # every tenth annotation is one of the split


def write(file: Path, megabytes: int) -> None:
    """Writes a file of about that size."""
    rng = np.random.default_rng(0)
    with file.open("w") as stream:
        stream.write('{"annotations": [')
        number = 0
        while stream.tell() < megabytes << 20:
            number += 1
            polygon = (rng.random(2 * rng.integers(10, 31)) * 600).round(2).tolist()
            entry = {"id": number, "image_id": number // 8, "category_id": 1, "segmentation": [polygon], "area": 1.5}
            entry |= {"bbox": polygon[:4], "iscrowd": 0}
            stream.write((", " if number > 1 else "") + json.dumps(entry))
        images = [{"id": k, "file_name": f"{k:012d}.jpg", "height": 480, "width": 640} for k in range(number // 8 + 1)]
        stream.write(f'], "images": {json.dumps(images)}}}')


def untyped(file: Path) -> int:
    """Reads everything into dicts and lists; gives how many numbers the kept masks have."""
    content = json.loads(file.read_bytes().decode())
    images = {image["id"]: image for image in content["images"]}
    kept = {a["id"]: a["segmentation"] for a in content["annotations"] if a["id"] % KEPT == 0}
    del content
    return len(images) and sum(len(polygon) for mask in kept.values() for polygon in mask)


def typed(file: Path) -> int:
    """Reads what is declared; gives the same number."""
    content = records.read(file, InstancesFile)
    images = records.unique(content.images, "image", file)
    annotations = records.unique(content.annotations, "annotation", file)
    kept = {number: annotations[number].segmentation.copy() for number in annotations if number % KEPT == 0}
    del content, annotations
    masks = (coco.segmentation(raw, number, file) for number, raw in kept.items())
    return len(images) and sum(len(polygon) for mask in masks for polygon in mask)


def main() -> None:
    """Prints a line for each way, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--megabytes", type=int, default=500)
    megabytes = parser.parse_args().megabytes
    costs = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "instances.json"
        write(file, megabytes)
        for name, read in (("json", untyped), ("records", typed)):
            receiver, sender = os.pipe()
            if os.fork() == 0:
                begin = time.process_time()
                count = read(file)
                cost = (time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, count)
                os.write(sender, json.dumps(cost).encode())
                os._exit(0)
            os.wait()
            costs.append(json.loads(os.read(receiver, 1000)))
            print(
                f"{name:8} {costs[-1][0]:6.2f} s {costs[-1][1]:7.0f} MB at most, {costs[-1][2]:,} numbers of masks kept"
            )
    before, now = costs
    print(f"records takes {now[0] / before[0]:.2f} of the time and {now[1] / before[1]:.2f} of the memory of json")


if __name__ == "__main__":
    main()
