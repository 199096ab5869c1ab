"""Arrays of a training example: masks on the canvas, and pictures whose features are known."""

import numpy as np
import pytest

from gsva_jax.config import GsvaConfig
from gsva_jax.data import arrays

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("size", [(5, 16), (16, 13), (7, 1), (16, 16)])
@pytest.mark.parametrize("columns_first", [False, True])
def test_masks_lie_in_the_corner_of_the_canvas(size, columns_first):
    masks = np.random.default_rng(0).random((2, *size)) < 0.5
    if columns_first:  # in memory, as COCO's decoder gives them
        masks = np.ascontiguousarray(masks.swapaxes(1, 2)).swapaxes(1, 2)
    packed = arrays.canvas_masks(masks, canvas=16, max_targets=3)
    expected = np.zeros((3, 16, 16), bool)
    expected[:2, : size[0], : size[1]] = masks
    np.testing.assert_array_equal(packed, np.packbits(expected, axis=-1))


def test_a_canvas_without_masks_is_empty():
    packed = arrays.canvas_masks(np.zeros((0, 1, 1), bool), canvas=8, max_targets=2)
    assert packed.shape == (2, 8, 1) and packed.dtype == np.uint8 and not packed.any()
    with pytest.raises(ValueError, match="need a canvas that is no smaller"):
        arrays.canvas_masks(np.zeros((1, 9, 3), bool), canvas=8, max_targets=2)


def test_a_picture_is_not_rendered_for_sam_where_its_features_are_known(monkeypatch):
    config = GsvaConfig.tiny(vocab_size=8)
    image = np.random.default_rng(0).integers(0, 256, (90, 61, 3), dtype=np.uint8)
    plain = arrays.picture_arrays(config, image)
    assert plain.pop("sam_images").shape == (144, 144, 3) and plain["resized"].tolist() == [144, 98]
    monkeypatch.delattr(arrays, "sam_input")
    features = np.ones((18, 18, 96), np.float32)
    known = arrays.picture_arrays(config, image, features)
    assert known.pop("image_features") is features
    assert plain.keys() == known.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(known[name], value)
