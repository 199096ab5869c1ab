"""python hostile_data.py OUT: lists of one's own and a referring dataset, damaged in many ways."""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
from case import GOLDEN
from encodings_of_masks import OK, SEGMENTATIONS, H, W
from PIL import Image

from grounding_jax.data.datasets import open_dataset
from tests.programs.trials import run_trials

out = Path(sys.argv[1])
out.mkdir(parents=True)
trials = {}
angles = np.linspace(0, 2 * np.pi, 1_000_000)
circle = [np.stack([45 + 30 * np.cos(angles), 30 + 20 * np.sin(angles)], 1).ravel().tolist()]
Image.new("RGB", (W, H), "orange").save(out / "1.jpg")
Image.fromarray((np.indices((H, W))[0] > 20).astype(np.uint8)).save(out / "m.png")
Image.new("L", (5, 5)).save(out / "small.png")
Image.new("RGB", (W, H)).save(out / "rgb.png")


def areas(root, name, most=3):
    """The pixels of the masks of some records."""
    source = open_dataset(root, name)
    return len(source), [int(source[i].masks.sum()) for i in range(min(len(source), most))]


def own(name, text):
    """Tries a list of one's own."""
    (out / f"{name}.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    trials["own_" + name] = lambda: areas(out, f"jsonl|{name}.jsonl")


def line(**more):
    """A line of such a list."""
    return json.dumps({"image": "1.jpg", "expressions": [{"text": "a", "masks": [OK]}], **more})


own("ok", line())
own("empty", "")
own("blank", "\n\n")
own("middle", line() + "\n{broken\n" + line())
own("nul", line() + "\0")
own("crlf", line() + "\r\n" + line())
own("bom", b"\xef\xbb\xbf" + line().encode())
own("utf16", line().encode("utf-16"))
own(
    "latin",
    line().encode() + b"\n" + line(expressions=[{"text": "XX", "masks": []}]).replace("XX", "\u00e9").encode("latin-1"),
)
own("u2028", line(expressions=[{"text": "a\u2028b", "masks": [OK]}]))
own(
    "u2028raw", json.dumps({"image": "1.jpg", "expressions": [{"text": "a\u2028b", "masks": [OK]}]}, ensure_ascii=False)
)
own("nel_raw", json.dumps({"image": "1.jpg", "expressions": [{"text": "a\u0085b", "masks": [OK]}]}, ensure_ascii=False))
own("deep", '{"image":' + "[" * 100000)
own("nopic", line(image="no.jpg"))
own("dotdot", line(image="../../../../../../etc/passwd"))
own("abs", line(image="/etc/passwd"))
own("maskdotdot", line(expressions=[{"text": "a", "masks": ["../../../../../../etc/passwd"]}]))
own("maskmissing", line(expressions=[{"text": "a", "masks": ["no.png"]}]))
own("masksmall", line(expressions=[{"text": "a", "masks": ["small.png"]}]))
own("maskrgb", line(expressions=[{"text": "a", "masks": ["rgb.png"]}]))
own("maskpng", line(expressions=[{"text": "a", "masks": ["m.png"]}]))
own("imgdir", line(image="."))
own("imgempty", line(image=""))
own("imgnul", line(image="a\0b"))
own("imglong", line(image="x" * 5000))
own("imglist", line(image=[1]))
own("noexpr", line(expressions=[]))
own("exprdict", line(expressions={"text": "a"}))
own("exprstr", line(expressions=["a"]))
own("textempty", line(expressions=[{"text": " ", "masks": []}]))
own("textdot", line(expressions=[{"text": ".", "masks": []}]))
own("textsurr", '{"image": "1.jpg", "expressions": [{"text": "\\ud800", "masks": []}]}')
own("dup", line() + "\n" + line())
own("dupexpr", line(expressions=[{"text": "a", "masks": [OK]}] * 3))
own("int", "5")
own("null", "null")
own("list", "[]")
own("url", line(image="http://localhost/x.jpg"))
own("gs", line(image="gs://b/x.jpg"))
own("imgsurr", '{"image": "\\ud800.jpg", "expressions": [{"text": "a", "masks": []}]}')
own("masknul", line(expressions=[{"text": "a", "masks": ["a\0b"]}]))
own("mask1e6", line(expressions=[{"text": "a", "masks": [circle]}]))
for n in (
    "nan",
    "outside",
    "none",
    "strs",
    "nested",
    "rle_short",
    "rle_size",
    "rle_sizestr",
    "rle_sizeint",
    "rle_nosize",
    "rle_neg",
    "flat",
    "dict_empty",
    "int",
    "bigint",
    "1e300",
    "rle_2^70",
    "rle_2^32",
    "nones",
    "mixed",
    "rle_strnum",
):
    own("seg_" + n, line(expressions=[{"text": "a", "masks": [SEGMENTATIONS[n]]}]))
own("large_1e5_lines", (line() + "\n") * 100_000)


def refer(name, change_instances=None, change_refs=None, instances=None, refs=None):
    """Tries the tiny gRefCOCO with one of its files changed, or with other bytes in its place."""
    root = out / f"refer_{name}"
    shutil.copytree(GOLDEN / "data", root)
    for file, change, data in (
        (root / "refer_seg/grefcoco/instances.json", change_instances, instances),
        (root / "refer_seg/grefcoco/grefs(unc).json", change_refs, refs),
    ):
        file.chmod(0o644)
        if change:
            content = json.loads(file.read_text())
            changed = change(content)
            file.write_text(json.dumps(content if changed is None else changed))
        if data is not None:
            file.write_bytes(data)
    trials["refer_" + name] = lambda: areas(root, "grefcoco|unc|val", most=100)


def annotations(key, value):
    """Sets a key of all annotations."""
    return lambda content: [entry.update({key: value}) for entry in content["annotations"]] and None


def images(key, value):
    """Sets a key of all images."""
    return lambda content: [entry.update({key: value}) for entry in content["images"]] and None


def references(key, value):
    """Sets a key of all references."""
    return lambda content: [entry.update({key: value}) for entry in content] and None


def without(key):
    """Deletes a key of all references."""
    return lambda content: [entry.pop(key, 0) for entry in content] and None


refer("ok")
for n in (
    "nan",
    "outside",
    "none",
    "strs",
    "rle_short",
    "rle_size",
    "rle_sizestr",
    "rle_sizeint",
    "flat",
    "int",
    "nones",
    "bigint",
    "dict_empty",
    "mixed",
):
    refer("seg_" + n, annotations("segmentation", SEGMENTATIONS[n]))
for k, v in (
    ("width", 0),
    ("width", -5),
    ("width", "x"),
    ("width", None),
    ("width", 10**9),
    ("width", 1.5),
    ("height", [1]),
    ("file_name", None),
    ("file_name", "../../x"),
    ("file_name", 5),
    ("id", "x"),
    ("id", [1]),
):
    refer(f"img_{k}_{v}", images(k, v))
for k, v in (
    ("image_id", 99999),
    ("image_id", "x"),
    ("image_id", [1]),
    ("image_id", None),
    ("ann_id", 99999),
    ("ann_id", "x"),
    ("ann_id", None),
    ("ann_id", [[1]]),
    ("ann_id", {}),
    ("split", None),
    ("split", 5),
    ("split", ["val"]),
    ("sentences", None),
    ("sentences", "x"),
    ("sentences", [None]),
    ("sentences", [5]),
    ("sentences", [{"sent": None}]),
    ("sentences", [{"sent": 5}]),
    ("sentences", []),
    ("sentences", [{"sent": ""}]),
    ("ref_id", None),
    ("ref_id", [1]),
    ("no_target", "x"),
):
    refer(f"ref_{k}_{str(v)[:14]}", None, references(k, v))
for k in ("image_id", "ann_id", "split", "sentences", "ref_id"):
    refer("ref_del_" + k, None, without(k))
refer("no_annotations", lambda c: c.update(annotations=[]))
refer("no_images", lambda c: c.update(images=[]))
refer("dup_ann", lambda c: c.update(annotations=c["annotations"] * 2))
refer("dup_img", lambda c: c.update(images=c["images"] * 2))
refer("ann_dict", lambda c: c.update(annotations={}))
refer("ann_none", lambda c: c.update(annotations=None))
refer("inst_list", lambda c: [])
refer("inst_5", lambda c: 5)
refer("refs_dict", None, lambda c: {})
refer("refs_empty", None, lambda c: [])
refer("refs_dup", None, lambda c: c * 2)
refer("refs_ints", None, lambda c: [1])
refer("inst_bad", instances=(b"{"))
refer("inst_deep", instances=(b"[" * 100000))
refer("inst_bin", instances=(b"\xff\xfe"))
refer("refs_bad", refs=(b"{"))
refer("inst_empty", instances=(b""))
run_trials(trials, out / "EXECUTED")
