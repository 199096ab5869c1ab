"""What a small GELLA and what makes masks for it answer on one device and on a mesh; run by test_gella_mesh.py.

python -m tests.programs.gella_mesh OUT.npz
"""

import dataclasses
import functools
import operator
import sys

import jax
import numpy as np
from flax import traverse_util

from gella_jax.predict import Gella, Request, as_entities
from gella_jax.sharding import table
from grounding_jax.inference.placement import place
from grounding_jax.models import sam
from grounding_jax.models.sam import SamConfig
from grounding_jax.segmenters import mask2former
from grounding_jax.segmenters.mask2former import segment_entities
from grounding_jax.segmenters.sam import PointGrid, segment_everything
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.weights.checkpoint import expected_shapes
from tests.small_gella import CAPTION, small_gella, small_picture

NOUNS = ("A dog", "two cats", "the couch")
# Parameters whose layout on the mesh is written down.
SPLIT = (
    "llama/layers/attn/q/kernel",
    "mask2former/pixel_decoder/layers/attn/values/kernel",
    "mask2former/transformer_decoder/layers_0/cross_attn/q/kernel",
    "blend/scales_3/conv/kernel",
)


SAM = SamConfig(
    width=12, layers=2, heads=2, global_blocks=(1,), image_size=32, patch_size=8, hidden=20, window=3,
    prompt_width=16, mask_channels=4, decoder_layers=1, decoder_hidden=16, iou_hidden=12,
)  # fmt: skip
SIZES = ((37, 61), (61, 37), (40, 64))  # of which two are padded to one size


def propose(arrays: dict[str, np.ndarray]) -> None:
    """Masks of pictures of several sizes, alone on one device and all at once on eight."""
    mask2former.SHORTEST, mask2former.LONGEST = 48, 80
    rng, gella = np.random.default_rng(0), small_gella().engine
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]
    queries = jax.device_get({**gella.params["mask2former"], "backbone": gella.params["backbone"]})
    drawn = jax.tree.map(lambda shape: rng.normal(0, 0.3, shape.shape).astype(np.float32), sam_shapes())
    grid = PointGrid(side=3, batch=4, min_iou=-np.inf, min_stability=0, max_box_iou=2)
    for name, shape in (("one", None), ("mesh", MeshShape(data=4, fsdp=2))):
        placed = [place(params, ((".*", REPLICATED),), None, shape) for params in (queries, drawn)]
        mesh = placed[0].mesh
        entities = functools.partial(
            segment_entities, gella.config.backbone, gella.config.mask2former, placed[0].params, dtype=np.float32
        )
        everything = functools.partial(segment_everything, SAM, placed[1].params, grid=grid)
        for kind, find in (("mask2former", entities), ("sam", everything)):
            batches = [pictures] if mesh else [[picture] for picture in pictures]
            found = [one.entities for batch in batches for one in find(batch, mesh=mesh)]
            for k, one in enumerate(found):
                arrays[f"{name}/{kind}/{k}/masks"], arrays[f"{name}/{kind}/{k}/scores"] = one.masks, one.scores


def sam_shapes() -> dict:
    return traverse_util.unflatten_dict(
        {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in expected_shapes(sam.init, SAM).items()},
        sep="/",
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
    propose(arrays)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(sys.argv[1])
