"""How good outlines are: the F-score of boundaries (Perazzi et al. 2016, DAVIS), and specks."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SPECK = 20  # pixels that a part of a mask should have at least


def boundary_f_score(found: np.ndarray, target: np.ndarray, tolerance: int = 3) -> float:
    """Harmonic mean of the shares of both outlines that lie near the other one.

    Args:
        found, target: bool ``[H, W]``.
        tolerance: pixels that count as near.

    Returns:
        From 0 to 1; 1 where both are empty, 0 where one of them is.
    """
    outlines = [mask & ~ndimage.binary_erosion(mask, border_value=1) for mask in (found, target)]
    if not all(outline.any() for outline in outlines):
        return float(not found.any() and not target.any())
    y, x = np.ogrid[-tolerance : tolerance + 1, -tolerance : tolerance + 1]
    near = [ndimage.binary_dilation(outline, x**2 + y**2 <= tolerance**2) for outline in outlines]
    precision, recall = ((near[1 - k] & outlines[k]).sum() / outlines[k].sum() for k in (0, 1))
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def has_speck(mask: np.ndarray) -> bool:
    """Whether a connected part of a bool ``[H, W]`` mask is smaller than `SPECK`."""
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    return bool(count and np.bincount(parts.ravel())[1:].min() < SPECK)
