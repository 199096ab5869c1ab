"""python values-of-another-type.py OUT: the tiny datasets with a value of another JSON type, one folder each."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

from case import GOLDEN, same

from gsva_jax.cli import main

REFS = "refer_seg/grefcoco/grefs(unc).json"
CASES = {
    "image_id_text": (REFS, (0, "image_id"), "1000", "$[0].image_id: expected `int`, got `str`"),
    "image_id_null": (REFS, (0, "image_id"), None, "$[0].image_id: expected `int`, got `null`"),
    "sentences_null": (REFS, (0, "sentences"), None, "$[0].sentences: expected `array`, got `null`"),
    "text_number": ("reason_seg/ReasonSeg/val/val0.json", ("text",), 1.5, "$.text: expected `array`, got `float`"),
}
for name, (place, path, value, words) in CASES.items():
    out = Path(sys.argv[1]) / name
    shutil.copytree(GOLDEN / "data", out)
    file = out / place
    content = at = json.loads(file.read_text())
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    file.chmod(0o644)
    file.write_text(json.dumps(content))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        status = main(["data", "check", str(out)])
    lines = printed.getvalue().splitlines()
    same(f"{name}: lines that name it", len([line for line in lines if f"{file} at {words}" in line]), 1)
    others = ("ReasonSeg|val",) if place == REFS else ("grefcoco|unc|val",)
    same(f"{name}: others in the table", all(any(o in line for line in lines) for o in others) and status, 0)
