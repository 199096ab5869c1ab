"""GELLA on a mesh of eight devices answers as on one, and its tables fit the published sizes."""

import sys

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gella_jax import model
from gella_jax.config import GellaConfig
from gella_jax.sharding import table
from grounding_jax.sharding.rules import shardings
from tests import processes
from tests.test_sharding import EIGHT


def test_answers_are_those_of_one_device(tmp_path):
    command = [sys.executable, "-m", "tests.gella_mesh", str(tmp_path / "out.npz")]
    done = processes.run(command, {"XLA_FLAGS": EIGHT})
    assert done.returncode == 0, done.stderr[-3000:]
    arrays = np.load(tmp_path / "out.npz")
    assert arrays["one/scores"].shape == (3, 3, 4)
    np.testing.assert_allclose(arrays["mesh/scores"], arrays["one/scores"], rtol=0, atol=1e-4)
    # Where a logit is 0 but for rounding, its pixel may fall on either side.
    assert (arrays["mesh/masks"] != arrays["one/masks"]).mean() < 1e-3
    assert arrays["mesh/text"] == arrays["one/text"]
    assert arrays["split"] == str(P(None, "fsdp", "tensor"))


@pytest.mark.parametrize("changes", [{}, {"backbone": "mobilenet_v2", "projector": "linear"}])
def test_tables_fit_the_published_sizes(changes):
    """Every parameter has one rule, every rule a parameter, and all divide over eight devices."""
    config = GellaConfig.gella_7b(**changes)
    shapes = jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    # The vocabulary is padded when it is placed.
    shapes["llama"]["embed"]["embedding"] = jax.ShapeDtypeStruct((32008, 4096), np.float32)
    shapes["llama"]["head"]["kernel"] = jax.ShapeDtypeStruct((4096, 32008), np.float32)
    mesh = jax.sharding.AbstractMesh((1, 4, 2), ("data", "fsdp", "tensor"))
    laid = shardings(mesh, table(config), shapes)
    assert laid["llama"]["layers"]["mlp"]["down"]["kernel"].spec == P(None, "tensor", "fsdp")
