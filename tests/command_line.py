"""What the tests of the command line share."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from gsva_jax.cli import main


def write_picture(path: Path, size: tuple[int, int] = (60, 80), **options) -> Path:
    """A small photograph-like picture."""
    rows, columns = np.indices(size)
    pixels = np.stack([rows * 3 % 256, columns * 2 % 256, (rows + columns) % 256], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def records(folder: Path) -> list[dict]:
    """The masks.json of a folder."""
    return json.loads((folder / "masks.json").read_text())


def failed(capsys, *words: object, code: int = 2, main=main, program: str = "gsva") -> str:
    """Runs a command that must fail with one line, and gives that line."""
    assert main([str(word) for word in words]) == code
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith(f"{program}: error: "), error
    return error[0].removeprefix(f"{program}: error: ")


# --- segment and ask


def import_words(golden: Path, weights: Path, out: Path, form: str = "official") -> list[object]:
    """The command that imports golden weights."""
    options = ["--language-model", golden / "tiny-llava", "--sizes", golden / "config.json", "--out", out]
    return ["import", "--format", form, weights, *options]
