"""python hostile_masks.py OUT: masks in encodings and files that are damaged, or claim more than there is."""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

import numpy as np
from encodings_of_masks import OK, SEGMENTATIONS, H, W
from PIL import Image

from grounding_jax.data.entity_masks import read_masks
from grounding_jax.files.masks import decode_mask, union_is_empty
from tests.programs.trials import run_trials

SIZE = (H, W)
out = Path(sys.argv[1])
out.mkdir(parents=True)
trials = {}
angles = np.linspace(0, 2 * np.pi, 1_000_000)
circle = [np.stack([45 + 30 * np.cos(angles), 30 + 20 * np.sin(angles)], 1).ravel().tolist()]
for name, value in {**SEGMENTATIONS, "1e6_vertices": circle, "1e5_polygons": OK * 100_000}.items():
    trials["mask_" + name] = lambda value=value: (decode_mask(value, SIZE).sum(), union_is_empty([value], SIZE))
source = random.Random(0)
for k in range(300):
    counts = "".join(chr(48 + source.randrange(64)) for _ in range(source.randrange(1, 20)))
    trials[f"counts_{k}"] = lambda counts=counts: decode_mask({"size": [H, W], "counts": counts}, SIZE).sum()


def described(file, size=SIZE, **options):
    """What is read of a file of masks."""
    entities = read_masks(file, size, **options)
    return entities.masks.shape, entities.ids[:3], entities.names[:2]


def table(label, content, **options):
    """Tries a json."""
    folder = out / f"json_{label}"
    folder.mkdir()
    (folder / "m.json").write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    trials["json_" + label] = lambda: described(folder / "m.json", **options)


def mask(segmentation=OK, **more):
    """An annotation."""
    return {"segmentation": segmentation, **more}


for name, value in SEGMENTATIONS.items():
    table("of_" + name, [mask(value)])
table("zero", [])
table("zero2", {"annotations": []})
table("500", [mask([[i % 80, i % 50, i % 80 + 9, i % 50, i % 80 + 9, i % 50 + 9]]) for i in range(500)])
table("20000", [mask()] * 20000)
table("score_str", [mask(score="x")])
table("score_nan", [mask(score=float("nan"))])
table("score_list", [mask(score=[1])])
table("score_dict", [mask(score={})])
table("id_dup", [mask(id=1), mask(id=1)])
table("id_str", [mask(id="x")])
table("id_list", [mask(id=[1])])
table("id_some", [mask(id=1), mask()])
table("cat_unknown", [mask(category_id=999)])
table("cat_list", [mask(category_id=[1])])
table("cat_dict", {"annotations": [mask(category_id=1)], "categories": [{"id": [1], "name": "x"}]})
table("cat_name", {"annotations": [mask(category_id=1)], "categories": [{"id": 1, "name": 5}]})
table("cat_none", {"annotations": [mask(category_id=1)], "categories": None})
table("images_none", {"annotations": [mask()], "images": None})
table("images_ints", {"annotations": [mask()], "images": [1]})
table("img_size", {"annotations": [mask()], "images": [{"id": 1, "height": "x", "width": 5}]})
table("img_size_none", {"annotations": [mask()], "images": [{"id": 1, "height": None, "width": 5}]})
table("img_size_list", {"annotations": [mask()], "images": [{"id": 1, "height": [1], "width": 5}]})
table("img_fn", {"annotations": [mask(image_id=1)], "images": [{"id": 1, "file_name": None}]}, name="1.jpg")
table(
    "img_fn5",
    {
        "annotations": [mask(image_id=1), mask(image_id=2)],
        "images": [{"id": 1, "file_name": 5}, {"id": 2, "file_name": 6}],
    },
    name="1.jpg",
)
table("imgid", [mask(image_id=1), mask(image_id=2)], image_id=9)
table("imgid_two", [mask(image_id=1), mask(image_id=2)])
table("rows", [mask([[0, 1], [1, 0]])], size=(2, 2))
table("rows_ragged", [mask([[0, 1], [1]])], size=(2, 2))
table("rows_size", [mask([[0, 1], [1, 0]])])
table("nosize", [mask()], size=None)
table("rle_nosize_huge", [mask({"size": [10**6, 10**6], "counts": [10**12]})], size=None)
table("rle_nosize_1e9", [mask({"size": [10**9, 10**9], "counts": [10**18]})], size=None)
table("rle_nosize_str", [mask({"size": ["a", "b"], "counts": [1]})], size=None)
table("rle_nosize_3", [mask({"size": [1, 2, 3], "counts": [6]})], size=None)
table("rle_nosize_neg", [mask({"size": [-1, -1], "counts": [1]})], size=None)
table("rle_nosize_float", [mask({"size": [1.5, 2], "counts": [3]})], size=None)
table("rle_nosize_40k", [mask({"size": [40000, 40000], "counts": [1600000000]})] * 20, size=None)
table("int", 5)
table("null", None)
table("str", "x")
table("deep", b"[" * 100000)
table("bad", b"{")
table("empty", b"")
table("text", b"hello")
table("crowd", [mask(iscrowd=1)])
table("crowd_str", [mask(iscrowd="x")])
table("pan_nofile", {"annotations": [{"segments_info": [], "file_name": "x.png", "image_id": 1}]})
table(
    "pan_dotdot",
    {"annotations": [{"segments_info": [{"id": 1}], "file_name": "../../../../etc/passwd", "image_id": 1}]},
)
table("pan_fn5", {"annotations": [{"segments_info": [{"id": 1}], "file_name": 5, "image_id": 1}]})
table("image_int", {"annotations": [mask()], "image": 5})
table("ann_mixed", [mask(), 5])


def png(label, image, content=None):
    """Tries a PNG, with a json beside it."""
    folder = out / f"png_{label}"
    folder.mkdir()
    if isinstance(image, bytes):
        (folder / "a.png").write_bytes(image)
    else:
        image.save(folder / "a.png")
    if content is not None:
        (folder / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
    trials["png_" + label] = lambda: described(folder / "a.png")


def panoptic(segments):
    """A panoptic json."""
    return {"annotations": [{"file_name": "a.png", "image_id": 1, "segments_info": segments}]}


g = Image.fromarray((np.indices(SIZE)[1] // 30).astype(np.uint8))
rgb = Image.fromarray(np.dstack([np.indices(SIZE)[1] // 30, np.zeros(SIZE), np.zeros(SIZE)]).astype(np.uint8))
png("ok", g)
png("void", Image.new("L", (W, H)))
png("size", Image.new("L", (9, 9), 3))
png("rgba", g.convert("RGBA"))
png("la", g.convert("LA"))
png("noise", Image.fromarray(np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)))
png("trunc", b"\x89PNG\r\n\x1a\n" + b"x" * 30)
png("16", Image.fromarray((np.indices(SIZE)[0] * 1000).astype(np.uint16)))
png("pan_ok", rgb, panoptic([{"id": 1}, {"id": 2}]))
png("pan_lacks", rgb, panoptic([{"id": 1}]))
png("pan_more", rgb, panoptic([{"id": 1}, {"id": 2}, {"id": 3}]))
png("pan_dup", rgb, panoptic([{"id": 1}, {"id": 1}, {"id": 2}]))
png("pan_str", rgb, panoptic([{"id": "1"}, {"id": "2"}]))
png("pan_none", rgb, panoptic([{"id": None}, {"id": 2}]))
png("pan_list", rgb, panoptic([{"id": [1]}, {"id": 2}]))
png("pan_huge", rgb, panoptic([{"id": 1}, {"id": 2}, {"id": 10**20}]))
png("pan_float", rgb, panoptic([{"id": 1.0}, {"id": 2.0}]))
png("pan_segint", rgb, panoptic(5))
png("pan_segnone", rgb, panoptic(None))
png("pan_twice", rgb, {"annotations": panoptic([{"id": 1}, {"id": 2}])["annotations"] * 2})
png("pan_badjson", rgb, "{")
png("pan_fn", rgb, {"annotations": [{"file_name": 5, "segments_info": []}]})
png("pan_deep", rgb, "[" * 100000)
png("pan_cat", rgb, panoptic([{"id": 1, "category_id": 999}, {"id": 2, "category_id": 1}]))
png("json_int", rgb, "5")
png("json_list5", rgb, "[5]")
png("all_crowd", rgb, panoptic([{"id": 1, "iscrowd": 1}, {"id": 2, "iscrowd": 1}]))
(out / "folder").mkdir()
(out / "empty").mkdir()
trials["folder_empty"] = lambda: described(out / "empty")
for k in range(500):
    Image.new("1", (W, H), 1).save(out / "folder" / f"{k}.png")
trials["folder_500"] = lambda: described(out / "folder")
run_trials(trials, out / "EXECUTED")
