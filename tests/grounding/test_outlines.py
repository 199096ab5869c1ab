"""Outlines and parts of masks: exact values on squares."""

import numpy as np
import pytest

from grounding_jax.inference.mask_parts import without_small_parts
from grounding_jax.metrics.outlines import boundary_f_score, has_speck


def square(top, left, side, size=60):
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_boundaries_within_the_tolerance_agree():
    mask = square(10, 10, 20)
    assert boundary_f_score(mask, mask) == 1
    assert boundary_f_score(square(11, 10, 20), mask, tolerance=1) == 1
    far = boundary_f_score(square(20, 10, 20), mask, tolerance=1)
    # Of 76 pixels of each outline, the two sides agree over the 10 rows that both have and 1 row beyond, and there is
    # one neighbour of each side in the row between them.
    assert far == pytest.approx((2 * 11 + 2) / 76)
    assert boundary_f_score(square(0, 0, 4), square(30, 30, 4)) == 0


def test_empty_masks():
    nothing = np.zeros((8, 8), bool)
    assert boundary_f_score(nothing, nothing) == 1
    assert boundary_f_score(square(2, 2, 3, 8), nothing) == boundary_f_score(nothing, square(2, 2, 3, 8)) == 0


def test_specks():
    mask = square(10, 10, 20)
    assert not has_speck(mask) and not has_speck(np.zeros((8, 8), bool))
    mask[0, :19] = True
    assert has_speck(mask)
    mask[1, 0] = True  # 20 pixels, one of them at a corner
    assert not has_speck(mask)


def test_small_parts_are_left_out_but_never_the_largest():
    mask = square(10, 10, 20)
    specked = mask.copy()
    specked[0, :19] = True
    assert (without_small_parts(specked, 20) == mask).all()
    assert (without_small_parts(specked, 19) == specked).all()
    small = square(5, 5, 3)
    small[20, 20] = True
    assert (without_small_parts(small, 20) == square(5, 5, 3)).all()
    nothing = np.zeros((8, 8), bool)
    assert not without_small_parts(nothing, 20).any()
