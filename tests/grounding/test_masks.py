"""Every mask encoding of the public datasets, damaged ones too, and polygons drawn as OpenCV draws them."""

import hashlib
import json

import numpy as np
import pytest
from pycocotools import mask as coco

from grounding_jax.files import masks

pytestmark = pytest.mark.quick

SIZE = (6, 7)
SQUARE = np.zeros(SIZE, bool)
SQUARE[1:4, 2:5] = True
POLYGON = [2, 1, 5, 1, 5, 4, 2, 4]
COUNTS = [13, 3, 3, 3, 3, 3, 14]
PACKED = "=33000;"


@pytest.mark.parametrize(
    "segmentation",
    [
        [POLYGON],
        [POLYGON, [3, 2, 4, 2, 4, 3]],
        [
            POLYGON,
            [1, 2],
            [1, 2, 3, 4],
            [1, 2, 3, 4, 5, 6, 7],
        ],  # degenerate ones are left out (spec gsva h 14)
        {"size": [6, 7], "counts": COUNTS},
        {"size": [6, 7], "counts": PACKED},  # left undefined in the release (h 14)
        {"size": [6, 7], "counts": PACKED.encode()},
        [{"size": [6, 7], "counts": PACKED}, {"size": [6, 7], "counts": COUNTS}],
    ],
)
def test_decode_mask(segmentation):
    before = json.dumps(segmentation, default=str)
    decoded = masks.decode_mask(segmentation, SIZE)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, SQUARE)
    assert json.dumps(segmentation, default=str) == before  # the release rewrites the annotation (h 15)


@pytest.mark.parametrize("segmentation", [[], [[1, 2, 3, 4]], {"size": [6, 7], "counts": [42]}])
def test_empty_masks(segmentation):
    decoded = masks.decode_mask(segmentation, SIZE)
    assert decoded.shape == SIZE and not decoded.any()
    assert masks.union_is_empty([segmentation], SIZE)


@pytest.mark.parametrize(
    ("segmentation", "problem"),
    [
        (None, "must be a list or a run-length dict"),
        ([1, 2, 3], "must hold polygons"),
        ([POLYGON, {"size": [6, 7], "counts": COUNTS}], "must hold polygons"),
        ({"counts": COUNTS}, "do not fit"),
        ({"size": [7, 6], "counts": COUNTS}, "do not fit a picture of"),
        ({"size": [6, 7]}, "must be a list or a string"),
        ({"size": [6, 7], "counts": COUNTS[:-1]}, "add up to 6 x 7 pixels, got 28"),
        ({"size": [6, 7], "counts": [50, -8]}, "add up"),
        ({"size": [6, 7], "counts": PACKED[:-1]}, "add up"),
        ({"size": [6, 7], "counts": ""}, "cut off"),
        ({"size": [6, 7], "counts": "zzz"}, "cut off"),
    ],
)
def test_damaged_masks_are_refused(segmentation, problem):
    with pytest.raises(ValueError, match=problem):
        masks.decode_mask(segmentation, SIZE)


def test_union_of_instances_is_their_or():
    other = {"size": [6, 7], "counts": [0, 3, 39]}
    union = masks.union_mask([[POLYGON], other, [POLYGON]], SIZE)
    expected = SQUARE.copy()
    expected[0:3, 0] = True
    np.testing.assert_array_equal(union, expected)
    assert not masks.union_is_empty([[], other], SIZE)
    assert masks.union_is_empty([], SIZE)
    assert masks.union_mask([], SIZE).shape == SIZE


def test_encoding_gives_back_the_mask():
    rng = np.random.default_rng(0)
    for density in (0.0, 0.02, 0.5, 1.0):
        for size in ((1, 1), (3, 200), (57, 41)):
            mask = np.kron(rng.random(size) < density, np.ones((3, 2), bool))
            encoded = json.loads(json.dumps(masks.encode_mask(mask)))
            np.testing.assert_array_equal(masks.decode_mask(encoded, mask.shape), mask)
            np.testing.assert_array_equal(coco.decode(encoded), mask)


def test_mask_record():
    record = masks.mask_record(SQUARE)
    assert record == {
        "segmentation": {"size": [6, 7], "counts": PACKED},
        "bbox": [2.0, 1.0, 3.0, 3.0],
        "area": 9,
    }
    assert masks.mask_record(~SQUARE & SQUARE)["area"] == 0


# What OpenCV 4.11 draws.
DRAWN = [
    (
        [[1.9, 1.2], [7.9, 3.7], [3.4, 5.99]],
        "......... .##...... .#####... ..######. ..#####.. ...##.... .........",
    ),
    (
        [[0, 0], [8, 6], [8, 0], [0, 6]],
        "#.......# ###....## ####.#### ######### ####.#### ###....## #.......#",
    ),
    (
        [[5, -3], [12, 3], [4, 9], [-2, 4]],
        "..#######. .######### ########## ########## ########## ########## .########.",
    ),
    ([[2, 1]], "...... ..#... ...... ......"),
    ([[0.5, 3.2], [5, 0]], ".....# ...##. .##... #....."),
    ([[6.0, 5.0], [8.0, 5.0], [8.0, 1.0]], "........ ........ .......# ......## ......##"),
    ([[9, 9], [12, 9], [12, 12]], "..... ..... ....."),
]


@pytest.mark.parametrize(("points", "picture"), DRAWN)
def test_polygons_are_drawn_as_opencv_does(points, picture):
    rows = picture.split()
    canvas = np.zeros((len(rows), len(rows[0])), np.uint8)
    masks.draw_polygon(canvas, points, 1)
    assert ["".join(".#"[pixel] for pixel in row) for row in canvas] == rows


def test_600_random_polygons_are_drawn_as_opencv_does():
    """Self-intersecting, outside the canvas, single points: the digest of all pixels is OpenCV 4.11's."""

    def pseudorandom():
        state = 1
        while True:
            state = (1103515245 * state + 12345) % 2**31
            yield state >> 8

    numbers, digest = pseudorandom(), hashlib.sha256()
    for _ in range(600):
        height, width, corners = next(numbers) % 40 + 1, next(numbers) % 40 + 1, next(numbers) % 8 + 1
        points = [
            [next(numbers) % (300 * width) / 100 - width, next(numbers) % (300 * height) / 100 - height]
            for _ in range(corners)
        ]
        canvas = np.zeros((height, width), np.uint8)
        masks.draw_polygon(canvas, points, 1)
        digest.update(canvas.tobytes())
    assert digest.hexdigest() == "4b848283fcc36b148b888d93d571fff8505ee0d0842548c99c69aa3087c7d61a"


@pytest.mark.parametrize("points", [[], [1, 2], [[1, 2, 3]], [[1, float("nan")]], [["a", 1]], [[1, 2], [3]]])
def test_points_of_polygons_are_checked(points):
    with pytest.raises(ValueError, match="pairs of finite numbers"):
        masks.draw_polygon(np.zeros(SIZE, np.uint8), points, 1)
