"""What a model says is looked at once before it becomes an answer."""

import numpy as np


def finite(values: np.ndarray) -> np.ndarray:
    """The logits or scores of an answer, as they are.

    Raises ValueError if one is not finite: NaN is neither above a threshold nor below, so it would pass for "no".
    """
    if not np.isfinite(values).all():
        raise ValueError(
            "the model's answer is not finite (NaN or infinity): its weights are damaged or from a training that "
            "diverged, or their dtype overflows; try --dtype float32"
        )
    return values
