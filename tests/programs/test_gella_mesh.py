"""GELLA on a mesh of eight devices answers as on one, and its tables fit the published sizes."""

import math
import sys

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from gella_jax import model, resoblend
from gella_jax.association import AssociationConfig
from gella_jax.config import GellaConfig
from gella_jax.resoblend import ResoBlendConfig
from gella_jax.sharding import resoblend_table, table
from grounding_jax.models import mask2former
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.sharding.rules import shardings
from grounding_jax.sharding.tables import MASK2FORMER
from tests.programs import processes
from tests.programs.gella_mesh import SIZES, SPLIT
from tests.programs.test_sharding import EIGHT, QUICK

MESH = jax.sharding.AbstractMesh((1, 4, 2), ("data", "fsdp", "tensor"))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> dict[str, np.ndarray]:
    """What the program of this test file writes."""
    out = tmp_path_factory.mktemp("mesh") / "out.npz"
    done = processes.run([sys.executable, "-m", "tests.programs.gella_mesh", str(out)], {"XLA_FLAGS": EIGHT + QUICK})
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(out) as stored:
        return dict(stored)


@pytest.mark.parametrize("kind", ["mask2former", "sam"])
def test_masks_do_not_depend_on_the_pictures_beside_them_nor_on_devices(arrays, kind):
    for k, size in enumerate(SIZES):
        alone, together = (
            {what: arrays[f"{name}/{kind}/{k}/{what}"] for what in ("masks", "scores")} for name in ("one", "mesh")
        )
        assert alone["masks"].shape[1:] == size and len(alone["masks"]) == len(together["masks"]) > 1
        np.testing.assert_allclose(together["scores"], alone["scores"], atol=1e-4)
        assert (together["masks"] != alone["masks"]).mean() < 1e-3


def test_answers_are_those_of_one_device(arrays):
    assert arrays["one/scores"].shape == (3, 3, 4)
    np.testing.assert_allclose(arrays["mesh/scores"], arrays["one/scores"], rtol=0, atol=1e-4)
    # Where a logit is 0 but for rounding, its pixel may fall on either side.
    assert (arrays["mesh/masks"] != arrays["one/masks"]).mean() < 1e-3
    assert arrays["mesh/text"] == arrays["one/text"]
    split = P(None, "fsdp", "tensor"), P(None, "fsdp", None), P("fsdp", "tensor"), P(None, None, "fsdp", None)
    assert [str(arrays[path]) for path in SPLIT] == [str(spec) for spec in split]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "backbone": "mobilenet_v2",
            "projector": "linear",
            "association": AssociationConfig(text_width=4096, kind="fc_relu_fc"),
        },
    ],
)
def test_tables_fit_the_published_sizes(changes):
    """Every parameter has one rule, every rule a parameter, and all divide over eight devices."""
    config = GellaConfig.gella_7b(**changes)
    shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    # The vocabulary is padded when it is placed.
    shapes["llama"]["embed"]["embedding"] = jax.ShapeDtypeStruct((32008, 4096), np.float32)
    shapes["llama"]["head"]["kernel"] = jax.ShapeDtypeStruct((4096, 32008), np.float32)
    laid = traverse_util.flatten_dict(shardings(MESH, table(config), shapes), sep="/")
    assert laid["llama/layers/mlp/down/kernel"].spec == P(None, "tensor", "fsdp")
    # Nothing large is repeated on every device, but for what a MobileNet and CLIP's positions take.
    whole = [path for path, sharding in laid.items() if sharding.spec == P() and not path.startswith("backbone/")]
    sizes = {path: math.prod(leaf.shape) for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items()}
    assert {path for path in whole if sizes[path] >= 2**18} == {"clip/pos_embed"}


@pytest.mark.parametrize(
    "path, spec",
    [
        ("pixel_decoder/fine_conv/kernel", P(None, None, "fsdp", None)),
        ("pixel_decoder/input_proj_0/kernel", P(None, "fsdp")),
        ("pixel_decoder/layers/attn/offsets/kernel", P(None, "fsdp", None)),
        ("pixel_decoder/layers/mlp/fc2/kernel", P(None, "tensor", "fsdp")),
        ("transformer_decoder/layers_8/self_attn/o/kernel", P("tensor", "fsdp")),
        ("transformer_decoder/layers_8/mlp/fc1/bias", P("tensor")),
        ("transformer_decoder/query_feat", P()),
    ],
)
def test_mask2former_lies_as_its_table_says(mask2former_layout, path, spec):
    assert mask2former_layout[path].spec == spec


@pytest.fixture(scope="module")
def mask2former_layout() -> dict:
    config = Mask2FormerConfig.coco_panoptic_swin_l()
    shapes = jax.eval_shape(lambda key: mask2former.init(config, key), jax.random.key(0))
    return traverse_util.flatten_dict(shardings(MESH, MASK2FORMER, shapes), sep="/")


@pytest.mark.parametrize("off", [None, "sa", "ca", "ff", "res", "conv"])
def test_resoblend_has_a_table_whatever_is_switched_off(off):
    config = ResoBlendConfig.skip((96, 192, 384, 768), **({off: False} if off else {}))
    shapes = jax.eval_shape(lambda key: resoblend.init(config, key), jax.random.key(0))
    laid = traverse_util.flatten_dict(shardings(MESH, resoblend_table(config), shapes), sep="/")
    assert laid["scales_0/mask_proj/kernel"].spec == P(None, "fsdp")
    if off == "conv":
        assert laid["scales_3/point/kernel"].spec == P("fsdp", None)
    else:
        assert laid["scales_3/conv/kernel"].spec == P(None, None, "fsdp", None)
