"""Mask resizing by matrices against torch's interpolate, the release's masks, and its traced form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from grounding_jax.models import mask_resize

pytestmark = pytest.mark.quick

# low, frame, resized, original: ordinary sizes, extreme shapes, enlarging and shrinking, single pixels.
CASES = [
    (32, 128, (88, 128), (96, 140)),
    (256, 1024, (683, 1024), (427, 640)),
    (256, 1024, (768, 1024), (768, 1024)),
    (8, 32, (17, 32), (333, 641)),
    (32, 128, (128, 128), (1, 1)),
    (32, 128, (1, 128), (1, 1000)),
    (32, 128, (128, 1), (900, 3)),
]


def interpolated(low_masks, frame, resized, original):
    """What the release does: enlarge to the frame, crop, resize to the picture (spec gsva a.9)."""
    bilinear = functools.partial(F.interpolate, mode="bilinear", align_corners=False)
    in_frame = bilinear(torch.from_numpy(low_masks)[:, None], (frame, frame))
    return bilinear(in_frame[..., : resized[0], : resized[1]], original)[:, 0].numpy()


@pytest.mark.parametrize(("out_size", "in_size"), [(5, 7), (7, 5), (1, 9), (9, 1), (1, 1), (64, 16), (101, 100)])
def test_resize_matrix_is_torch_interpolate(out_size, in_size):
    x = np.random.default_rng(0).normal(size=(1, 1, in_size)).astype(np.float32)
    expected = F.interpolate(torch.from_numpy(x), out_size, mode="linear", align_corners=False)[0, 0]
    np.testing.assert_allclose(mask_resize.resize_matrix(out_size, in_size) @ x[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("low", "frame", "resized", "original"), CASES)
def test_resize_masks_is_the_release_post_processing(low, frame, resized, original):
    logits = np.random.default_rng(1).normal(size=(2, low, low)).astype(np.float32)
    rows, columns = mask_resize.mask_matrices(low, frame, resized, original)
    assert rows.shape == (original[0], low) and columns.shape == (original[1], low)
    result = mask_resize.resize_masks(logits, rows, columns)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, interpolated(logits, frame, resized, original), atol=1e-5)


def test_no_masks_stay_no_masks():
    matrices = mask_resize.mask_matrices(8, 32, (32, 20), (50, 31))
    assert mask_resize.resize_masks(np.zeros((0, 8, 8), np.float32), *matrices).shape == (0, 50, 31)


@pytest.mark.parametrize(
    "name", ["grefcoco_val_0", "grefcoco_val_2", "refcoco_val_1", "reasonseg_val_0", "refzom_test_2"]
)
def test_stored_masks(golden, name):
    stored = np.load(golden / "gsva" / f"eval_{name}.npz")
    resized, original = tuple(stored["resize_list"][0]), tuple(stored["original_sizes"][0])
    masks = mask_resize.resize_masks(
        stored["out/low_res_masks"][:, 0], *mask_resize.mask_matrices(32, 128, resized, original)
    )
    if "out/pred_masks" in stored:
        np.testing.assert_allclose(masks, stored["out/pred_masks"], atol=1e-4)
    else:
        np.testing.assert_allclose(masks[:, ::4, ::4], stored["out/pred_masks_stride4"], atol=1e-4)
        np.testing.assert_array_equal(masks >= 0, stored["out/pred_masks_ge0"])


@pytest.mark.parametrize(("low", "frame", "resized", "original"), CASES)
def test_canvas_matrices_are_the_exact_ones_padded(low, frame, resized, original):
    canvas = max(original) + 5
    build = jax.jit(mask_resize.canvas_matrices, static_argnums=(0, 1, 2))
    rows, columns, inside = build(low, frame, canvas, jnp.array(resized), jnp.array(original))
    exact_rows, exact_columns = mask_resize.mask_matrices(low, frame, resized, original)
    assert rows.shape == columns.shape == (canvas, low) and inside.shape == (canvas, canvas)
    np.testing.assert_allclose(rows[: original[0]], exact_rows, atol=2e-6)
    np.testing.assert_allclose(columns[: original[1]], exact_columns, atol=2e-6)
    assert not rows[original[0] :].any() and not columns[original[1] :].any()
    expected = np.zeros((canvas, canvas), bool)
    expected[: original[0], : original[1]] = True
    np.testing.assert_array_equal(inside, expected)


def test_canvas_matrices_of_several_pictures_and_of_padding():
    """Under vmap, with a row of zeros as batches are padded with: it gives zeros, not NaN."""
    resized, original = jnp.array([[20, 32], [32, 32], [0, 0]]), jnp.array([[30, 48], [48, 48], [0, 0]])
    build = jax.vmap(functools.partial(mask_resize.canvas_matrices, 8, 32, 48))
    rows, columns, inside = build(resized, original)
    exact_rows, _ = mask_resize.mask_matrices(8, 32, (20, 32), (30, 48))
    np.testing.assert_allclose(rows[0, :30], exact_rows, atol=2e-6)
    assert not rows[2].any() and not columns[2].any() and not inside[2].any()
    assert np.isfinite(rows).all() and np.isfinite(columns).all()
