"""Connected parts of masks: specks that a decoder leaves behind are taken away, as by SAM's `remove_small_regions`."""

from __future__ import annotations

import numpy as np
from scipy import ndimage


def without_small_parts(mask: np.ndarray, fewest: int) -> np.ndarray:
    """A bool ``[H, W]`` mask without its connected parts of fewer pixels; the largest part stays in any case.

    Pixels are connected over their corners, too.
    """
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    if count < 2:
        return mask
    area = np.bincount(parts.ravel())
    area[0] = 0
    kept = area >= min(fewest, area.max())
    kept[0] = False
    return kept[parts]
