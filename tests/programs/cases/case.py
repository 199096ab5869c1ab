"""What the cases have in common: each is a program that ends with status 1 where something goes wrong."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
GOLDEN = REPOSITORY / "tests" / "golden" / "gsva"
PHOTO = REPOSITORY / "gsva_jax" / "assets" / "photo_scene.jpg"
TURTLE = [405, 148, 338, 205, 361, 243, 469, 224, 479, 205, 416, 148]  # a polygon in a picture of 600 x 400


def refused(call: Callable[[], Any], *words: str) -> None:
    """Ends the program unless a call raises ValueError or OSError in one line that has these words."""
    try:
        value = call()
    except (ValueError, OSError) as error:
        line = str(error)
        print("refused:", line)
        lacking = [word for word in words if word not in line]
        if lacking or "\n" in line:
            sys.exit(f"the line lacks {lacking}, or is not one")
    else:
        sys.exit(f"should have been refused with {words}, but gave {value!r}")


def same(what: str, value: Any, right: Any) -> None:
    """Ends the program unless a value is the right one."""
    print(what, value)
    if value != right:
        sys.exit(f"{what}: {value!r}, but {right!r} would be right")
