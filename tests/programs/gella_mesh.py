"""What a small GELLA answers on one device and on a mesh; run by tests/programs/test_gella_mesh.py as a program.

python -m tests.programs.gella_mesh OUT.npz
"""

import dataclasses
import functools
import operator
import sys

import jax
import numpy as np

from gella_jax.predict import Gella, Request, as_entities
from gella_jax.sharding import table
from grounding_jax.inference.placement import place
from grounding_jax.sharding.mesh import MeshShape
from tests.small_gella import CAPTION, small_gella, small_picture

NOUNS = ("A dog", "two cats", "the couch")
# Parameters whose layout on the mesh is written down.
SPLIT = (
    "llama/layers/attn/q/kernel",
    "mask2former/pixel_decoder/layers/attn/values/kernel",
    "mask2former/transformer_decoder/layers_0/cross_attn/q/kernel",
    "blend/scales_3/conv/kernel",
)


def main(out: str) -> None:
    """Grounds the same nouns in three pictures, which fill up a batch of four, and lets the model write."""
    one, requests, arrays = small_gella(), [], {}
    for seed in range(3):
        image, masks = small_picture(seed, (50 + seed, 70))
        requests.append(Request(image, CAPTION, as_entities(masks), NOUNS))
    placed = place(
        jax.device_get(one.engine.params), table(one.engine.config), None, MeshShape(data=2, fsdp=2, tensor=2)
    )
    mesh = Gella(dataclasses.replace(one.engine, **placed._asdict()))
    for name, gella in (("one", one), ("mesh", mesh)):
        groundings = gella.ground_many(requests, output_masks="decoded")
        arrays[f"{name}/scores"] = np.array([[noun.scores for noun in one.nouns] for one in groundings])
        arrays[f"{name}/masks"] = np.array([one.entities.masks[:, :50] for one in groundings])
        arrays[f"{name}/text"] = np.array(gella.nouns(requests[0].image, CAPTION, max_new=6).text)
    for path in SPLIT:
        leaf = functools.reduce(operator.getitem, path.split("/"), mesh.engine.params)
        arrays[path] = np.array(str(leaf.sharding.spec))
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
