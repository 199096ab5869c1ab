"""The engine of the two-way tables: a rule in both directions, and that nothing is matched loosely."""

import numpy as np
import pytest

from grounding_jax.weights import transforms
from grounding_jax.weights.table import Rule, Table
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, from_array
from grounding_jax.weights.transforms import LINEAR, SQUEEZE

pytestmark = pytest.mark.quick

TABLE = Table(
    (
        Rule("embed.weight", "embed/embedding"),
        Rule("layers.{i}.up.weight", "layers/up/kernel", LINEAR, aliases=("layers.{i}.up.base_layer.weight",)),
        Rule("layers.{i}.norm.weight", "layers_{i}/norm/scale"),
        Rule("heads.{m}.layers.{j}.weight", "heads/layers_{j}/kernel", LINEAR),
        Rule("points.{i}.weight", "points", SQUEEZE),
    ),
    ignored=("layers.*.inv_freq",),
)


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"embed.weight": (5, 2)}
    for i in range(3):
        shapes |= {f"layers.{i}.up.weight": (4, 2), f"layers.{i}.norm.weight": (2 + i,)}
        shapes |= {f"points.{i}.weight": (1, 3)}
    for m in range(2):
        shapes |= {f"heads.{m}.layers.0.weight": (2, 2), f"heads.{m}.layers.1.weight": (6, 2)}
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}


def lazy(arrays: dict[str, np.ndarray]) -> dict[str, LazyTensor]:
    return {key: from_array(array) for key, array in arrays.items()}


def test_both_directions():
    source = tensors()
    ours = TABLE.to_ours(lazy(source) | {"layers.0.rotary.inv_freq": from_array(np.zeros(3))}, "x.bin")
    assert {path: leaf.shape for path, leaf in ours.items()} == {
        "embed/embedding": (5, 2),
        "layers/up/kernel": (3, 2, 4),
        "layers_0/norm/scale": (2,),
        "layers_1/norm/scale": (3,),
        "layers_2/norm/scale": (4,),
        "heads/layers_0/kernel": (2, 2, 2),
        "heads/layers_1/kernel": (2, 2, 6),
        "points": (3, 3),
    }
    np.testing.assert_array_equal(ours["layers/up/kernel"].read()[1], source["layers.1.up.weight"].T)
    np.testing.assert_array_equal(ours["heads/layers_1/kernel"].read()[0], source["heads.0.layers.1.weight"].T)
    back = TABLE.to_torch({path: from_array(leaf.read()) for path, leaf in ours.items()}, "ckpt")
    assert back.keys() == source.keys()
    for key, array in source.items():
        np.testing.assert_array_equal(back[key].read(), array, err_msg=key, strict=True)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.bool_])
def test_weights_that_are_no_floats_are_refused(dtype):
    """As if they were numbers, the integers of a quantised model would give some model that answers."""
    quantised = tensors()
    for i in (0, 2):
        quantised[f"layers.{i}.up.weight"] = quantised[f"layers.{i}.up.weight"].astype(dtype)
    message = rf"x\.bin: layers\.\{{0,2\}}\.up\.weight of {np.dtype(dtype)}: quantised .* in float32, float16, bfloat16"
    with pytest.raises(CheckpointError, match=message):
        TABLE.to_ours(lazy(quantised), "x.bin")
    ours = TABLE.to_ours(lazy(tensors()), "x.bin")
    ours["points"] = from_array(ours["points"].read().astype(dtype))
    expected = {path: leaf.shape for path, leaf in ours.items()}
    with pytest.raises(CheckpointError, match=rf"model: points\.\{{0-2\}}\.weight of {np.dtype(dtype)}"):
        TABLE.check_shapes(ours, expected, "model")


def test_more_than_ten_layers_keep_their_order():
    arrays = {f"l.{i}.w": np.full((1,), i, np.float32) for i in (10, 2, 0, 11, 1, 3, 4, 5, 6, 7, 8, 9)}
    ours = Table((Rule("l.{i}.w", "l"),)).to_ours(lazy(arrays), "x")
    np.testing.assert_array_equal(ours["l"].read()[:, 0], np.arange(12))


def test_alias_is_accepted_and_written_under_the_first_name():
    source = {key.replace("up.weight", "up.base_layer.weight"): array for key, array in tensors().items()}
    ours = TABLE.to_ours(lazy(source), "x.bin")
    assert TABLE.to_torch(ours, "ckpt").keys() == tensors().keys()


def test_every_misfit_is_listed_at_once():
    source = lazy(tensors())
    for key in ("layers.1.up.weight", "heads.1.layers.0.weight", "embed.weight"):
        del source[key]
    source |= {"what.3.is": source["points.0.weight"], "what.4.is": source["points.0.weight"]}
    source["layers.2.up.base_layer.weight"] = source["layers.2.up.weight"]
    with pytest.raises(CheckpointError) as error:
        TABLE.to_ours(source, "x.bin")
    message = str(error.value)
    assert message.startswith("x.bin: ") and "\n" not in message
    assert "2 unknown (what.{3-4}.is)" in message
    assert "3 missing (embed.weight, layers.1.up.weight, heads.1.layers.0.weight)" in message
    assert "1 doubled (layers.2.up.base_layer.weight)" in message


def test_a_whole_group_that_is_missing_is_named():
    source = {key: tensor for key, tensor in lazy(tensors()).items() if not key.startswith("points")}
    with pytest.raises(CheckpointError, match=r"1 missing \(points\.\{i\}\.weight\)"):
        TABLE.to_ours(source, "x.bin")
    source = {key: tensor for key, tensor in lazy(tensors()).items() if ".norm." not in key}
    with pytest.raises(CheckpointError, match=r"3 missing \(layers\.\{0-2\}\.norm\.weight\)"):
        TABLE.to_ours(source, "x.bin")


def test_two_rules_for_one_name_are_an_error():
    table = Table((Rule("a.weight", "a"), Rule("a.weight", "b")))
    with pytest.raises(CheckpointError, match="doubled"):
        table.to_ours(lazy({"a.weight": np.zeros(2)}), "x.bin")


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (np.zeros((4, 3), np.float32), r"layers\.\{0-2\}\.up\.weight can't be stacked: .*\[2, 4\].*\[3, 4\]"),
        (np.zeros((4, 2), np.float16), r"can't be stacked: one is float32 .*, another float16"),
        (np.zeros((4,), np.float32), r"layers\.1\.up\.weight is \[4\], which is no linear"),
    ],
    ids=["shape", "dtype", "rank"],
)
def test_layers_that_differ(other, message):
    source = lazy(tensors() | {"layers.1.up.weight": other})
    with pytest.raises(CheckpointError, match=message):
        TABLE.to_ours(source, "x.bin")


def test_shapes_are_checked_in_torch_names():
    ours = TABLE.to_ours(lazy(tensors()), "x.bin")
    expected = {path: leaf.shape for path, leaf in ours.items()}
    TABLE.check_shapes(ours, expected, "x.bin")
    wrong = expected | {"layers/up/kernel": (3, 2, 7)}
    message = r"x\.bin: 3 tensors of another shape than the config: layers\.\{0-2\}\.up\.weight is \[4, 2\], "
    with pytest.raises(CheckpointError, match=message + r"should be \[7, 2\]"):
        TABLE.check_shapes(ours, wrong, "x.bin")
    fewer = {path: leaf for path, leaf in ours.items() if path != "layers_2/norm/scale"}
    with pytest.raises(CheckpointError, match=r"1 missing \(layers\.2\.norm\.weight\)"):
        TABLE.check_shapes(fewer, expected, "x.bin")
    deeper = expected | {"layers/up/kernel": (4, 2, 4), "layers_3/norm/scale": (2,), "points": (4, 3)}
    with pytest.raises(CheckpointError, match=r"missing \(.*layers\.3\.up\.weight"):
        TABLE.check_shapes(ours, deeper, "x.bin")


@pytest.mark.parametrize(
    ("transform", "shape", "ours"),
    [
        (transforms.IDENTITY, (4, 5), (4, 5)),
        (transforms.LINEAR, (4, 5), (5, 4)),
        (transforms.SQUEEZE, (1, 4, 5), (4, 5)),
        (transforms.PATCH, (8, 3, 4, 4), (48, 8)),
        (transforms.CONV, (8, 6, 3, 3), (3, 3, 6, 8)),
        (transforms.CONV_1X1, (8, 6, 1, 1), (6, 8)),
        (transforms.CONV_2X2, (8, 6, 2, 2), (24, 8)),
        (transforms.UPCONV_2X2, (8, 6, 2, 2), (8, 24)),
    ],
    ids=lambda value: value.name.split()[0] if isinstance(value, transforms.Transform) else None,
)
def test_transforms_are_undone_bit_for_bit(transform, shape, ours):
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    mapped = transform.to_ours(array)
    assert mapped.shape == ours
    np.testing.assert_array_equal(transform.to_torch(mapped), array, strict=True)


@pytest.mark.parametrize("shape", [(8, 6, 3, 3), (8, 4, 4, 4), (2, 3, 4)])
def test_a_kernel_of_another_kind_is_refused(shape):
    table = Table((Rule("patch.weight", "patch", transforms.PATCH),))
    with pytest.raises(CheckpointError, match=r"patch\.weight is .*, which is no patch kernel"):
        table.to_ours(lazy({"patch.weight": np.zeros(shape)}), "x.bin")
