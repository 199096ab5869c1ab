"""python coco-duplicate-ids.py OUT: the tiny gRefCOCO with an id given twice, as merged exports have it."""

import copy
import json
import shutil
import sys
from pathlib import Path

from case import GOLDEN, refused

from grounding_jax.data.datasets import open_dataset

for kind in ("annotation", "image"):
    out = Path(sys.argv[1]) / kind
    shutil.copytree(GOLDEN / "data", out)
    file = out / "refer_seg/grefcoco/instances.json"
    content = json.loads(file.read_text())
    entries = content[f"{kind}s"]
    other = copy.deepcopy(entries[-1])
    other["id"] = entries[0]["id"]
    entries.append(other)
    file.chmod(0o644)
    file.write_text(json.dumps(content))
    refused(lambda out=out: open_dataset(out, "grefcoco|unc|val"), f"instances.json has {kind} {other['id']} twice")
