"""An answer as files and as lines to read: overlay.png, masks.json, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from rich.text import Text

from grounding_jax.drawing.legend import Shown, colour, verdict
from grounding_jax.drawing.overlay import draw_overlay, write_png
from grounding_jax.files.masks import mask_record
from grounding_jax.files.writing import write_json_lines

OVERLAY_FILE, MASKS_FILE = FILES = "overlay.png", "masks.json"


def save_results(
    folder: epath.PathLike, image: np.ndarray, targets: Sequence[Shown], caption: Sequence[str] = ()
) -> None:
    """Writes overlay.png and masks.json into a folder that exists.

    Args:
        folder: folder for the results.
        image: uint8 ``[H, W, 3]``.
        targets: masks bool ``[H, W]``.
        caption: see `draw_overlay`.
    """
    folder = epath.Path(folder)
    write_png(folder / OVERLAY_FILE, draw_overlay(image, targets, caption))
    write_json_lines(folder / MASKS_FILE, mask_records(targets))


def mask_records(targets: Sequence[Shown]) -> list[dict[str, Any]]:
    """Targets as masks.json has them: expression, rejected, score, segmentation (COCO run lengths), bbox, area."""
    return [
        {"expression": t.expression, "rejected": t.rejected, "score": round(t.score, 6), **mask_record(t.mask)}
        for t in targets
    ]


def describe(targets: Sequence[Shown]) -> list[Text]:
    """One line a target, in the colours of the overlay."""
    width = min(max((len(target.expression) for target in targets), default=0), 60)
    lines = []
    for k, target in enumerate(targets):
        share = f"   {100 * target.mask.mean():.1f}% of the picture" if target.mask.any() else ""
        style = "dim" if target.rejected else colour(k)
        lines.append(Text(f"{k + 1:4} ", style) + Text(f"{target.expression:{width}}   {verdict(target)}{share}"))
    return lines
