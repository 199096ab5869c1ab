"""python labelme-shapes.py OUT: pictures of one's own in ReasonSeg's layout, annotated with labelme's other tools."""

import json
import sys
from pathlib import Path

from case import refused, same
from PIL import Image

from grounding_jax.data.datasets import open_dataset

root = Path(sys.argv[1])
out = root / "reason_seg/ReasonSeg/val"
out.mkdir(parents=True)
SQUARE = [[338, 148], [479, 148], [479, 243], [338, 243]]


def write(name, kind, points):
    """A picture and its annotation."""
    Image.new("RGB", (600, 400), (90, 120, 60)).save(out / name)
    shapes = [{"label": "target", "points": points, "group_id": None, "shape_type": kind, "flags": {}}]
    content = {"version": "5.4.1", "text": ["What has a shell?"], "is_sentence": True, "shapes": shapes}
    (out / name).with_suffix(".json").write_text(json.dumps(content))


write("a_polygon.jpg", "polygon", SQUARE)
write("b_rectangle.jpg", "rectangle", [[338, 148], [479, 243]])
write("c_rectangle.jpg", "rectangle", [[479, 148], [338, 243]])  # drawn from another corner
write("d_point.jpg", "point", [[400, 190]])
write("e_circle.jpg", "circle", [[400, 190], [420, 190]])
write("f_png.png", "polygon", SQUARE)
write("g_upper.JPG", "polygon", SQUARE)
(out / "._a_polygon.jpg").write_bytes(b"\0\5\x16\7" + bytes(60))
source = open_dataset(root, "ReasonSeg|val")
same("pictures", len(source), 7)
for index in (0, 1, 2, 5, 6):
    same("pixels", source[index].masks.sum(), 142 * 96)
refused(lambda: source[3], "d_point.json: shape 0 is a point of 1 points")
refused(lambda: source[4], "e_circle.json: shape 0 is a circle of 2 points")
