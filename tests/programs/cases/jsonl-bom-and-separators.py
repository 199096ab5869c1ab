"""python jsonl-bom-and-separators.py OUT: jsonl files as Windows editors and caption generators write them."""

import json
import shutil
import sys
from pathlib import Path

from case import PHOTO, TURTLE, refused, same
from etils import epath

from grounding_jax.data.datasets import open_dataset
from gsva_jax.cli.answering import Segment

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
shutil.copy(PHOTO, out / "1.jpg")


def own(text):
    """A line of one's own data."""
    expressions = [{"text": text, "masks": [[TURTLE]]}]
    return json.dumps({"image": "1.jpg", "expressions": expressions}, ensure_ascii=False)


def ask(text):
    """A line that `gsva segment` takes."""
    return json.dumps({"image": "1.jpg", "expressions": [text]}, ensure_ascii=False)


def read_own(file):
    """What a list of one's own asks for."""
    return open_dataset(out, f"jsonl|{file.name}")[0].raw_expressions


def read_ask(file):
    """What `gsva segment` would look for."""
    return Segment(str(file), (), out=str(out)).requests(epath.Path(file), epath.Path(out))[0].question


for kind, line, read in (("own", own, read_own), ("ask", ask, read_ask)):
    for name, text, data in (
        ("plain", "the turtle", (line("the turtle") + "\n").encode()),
        ("bom", "the turtle", (line("the turtle") + "\r\n").encode("utf-8-sig")),
        ("u2028", "the\u2028turtle", (line("the\u2028turtle") + "\n").encode()),
        ("nel", "the\x85turtle", line("the\x85turtle").encode()),
    ):
        file = out / f"{kind}_{name}.jsonl"
        file.write_bytes(data)
        same(file.name, read(file), (text,))
    for name, number, data in (
        ("utf16", 1, (line("the turtle") + "\r\n").encode("utf-16")),
        ("gbk", 2, (line("the turtle") + "\n" + line("左边的狗") + "\n").encode("gbk")),
    ):
        file = out / f"{kind}_{name}.jsonl"
        file.write_bytes(data)
        refused(lambda file=file, read=read: read(file), f"{file.name}, line {number}: this is not UTF-8")
