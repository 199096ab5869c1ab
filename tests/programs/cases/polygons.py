"""Polygons that could kill the process (NaN, infinity, 1e18), each in a process of its own."""

import os
import resource
import sys

from case import refused

from grounding_jax.files.masks import decode_mask

resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)  # otherwise the machine's memory would be full
for name, polygon, words in (
    ("NaN", [float("nan"), 1, 2, 3, 4, 5], "number 0 of polygon 0 must be finite, got nan"),
    ("infinity", [1, float("inf"), 2, 3, 4, 5], "number 1 of polygon 0 must be finite, got inf"),
    ("1e18", [1e18, 0, 0, 1e18, 5, 5], "number 0 of polygon 0 is 1e+18, far out of the picture of 90 x 60"),
    ("zigzag", [0, 0, 5000, 0] * 1000, "the outline of polygon 0 is 10,000,000 pixels long"),
):
    pid = os.fork()
    if pid == 0:
        refused(lambda polygon=polygon: decode_mask([polygon], (60, 90)), words)
        sys.exit(0)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit(f"{name}: the process was killed, or did not refuse")
