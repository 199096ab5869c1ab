"""Overlays, their legends and letters, and the files and lines that an answer becomes."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from grounding_jax.drawing import badges, lettering
from grounding_jax.drawing.badges import Mark
from grounding_jax.drawing.legend import COLOURS, RADIUS, colour, draw_legend, verdict
from grounding_jax.drawing.lettering import Lettering, undrawable
from grounding_jax.drawing.overlay import MAX_SIDE, MIN_SIDE, MIN_WIDTH, draw_marks, draw_overlay
from grounding_jax.files.masks import decode_mask
from grounding_jax.terminal import prepare_folder
from gsva_jax.results import describe, mask_records, save_results

pytestmark = pytest.mark.quick


@dataclasses.dataclass
class Shown:
    """A target as it is drawn."""

    expression: str
    mask: np.ndarray
    rejected: bool = False
    score: float = 0.9


def rgb(text: str) -> np.ndarray:
    return np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)], float)


def square(size: tuple[int, int], *, rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


@pytest.fixture
def grey() -> np.ndarray:
    return np.full((200, 300, 3), 120, np.uint8)


def test_a_target_has_its_colour_and_the_rest_is_dimmed(grey):
    mask = square((200, 300), rows=slice(50, 150), columns=slice(100, 250))
    drawn = draw_overlay(grey, [Shown("the dog", mask)]).astype(float)
    scale = MIN_SIDE / 300
    inside, outside = drawn[int(70 * scale), int(120 * scale)], drawn[int(20 * scale), int(20 * scale)]
    np.testing.assert_allclose(inside, 120 + 0.45 * (rgb(colour(0)) - 120), atol=1)
    np.testing.assert_allclose(outside, 0.72 * 120, atol=1)
    edge = drawn[int(100 * scale), int(100 * scale) - 4 : int(100 * scale) + 4]
    assert np.abs(edge - rgb(colour(0))).sum(1).min() < 10, "the outline is of the pure colour"


def test_targets_on_top_of_each_other_take_turns(grey):
    mask = square((200, 300), rows=slice(0, 200), columns=slice(0, 300))
    drawn = draw_overlay(grey, [Shown("one", mask), Shown("the same", mask.copy())]).astype(float)
    patch = drawn[150:250, 600:700].reshape(-1, 3)
    for k in (0, 1):
        wanted = 120 + 0.45 * (rgb(colour(k)) - 120)
        share = (np.abs(patch - wanted).max(1) < 3).mean()
        assert 0.4 < share < 0.6


def test_what_is_rejected_is_not_drawn_but_has_its_row(grey):
    nothing, rejected = (
        draw_overlay(grey, []),
        draw_overlay(grey, [Shown("a giraffe", np.zeros((200, 300), bool), True)]),
    )
    height = round(200 * MIN_SIDE / 300)
    np.testing.assert_array_equal(nothing[:height], rejected[:height])
    assert (nothing[:height] == 120).all()
    assert rejected.shape[0] > nothing.shape[0]
    assert verdict(Shown("", np.zeros((1, 1), bool), True)) == "[REJ] not there"
    assert verdict(Shown("", np.zeros((1, 1), bool), score=0.5)) == "0.50 empty mask"


@pytest.mark.parametrize(
    "height, width, drawn",
    [
        (320, 320, (960, 960)),
        (1000, 1500, (1000, 1500)),
        (3000, 4000, (1536, 2048)),
        (1, 1, (10, 640)),
        (10, 20000, (1, 2048)),
    ],
)
def test_any_size_is_drawn_at_a_size_to_look_at(height, width, drawn):
    image = np.zeros((height, width, 3), np.uint8)
    mask = square((height, width), rows=slice(0, height // 2 + 1), columns=slice(0, width // 2 + 1))
    overlay = draw_overlay(image, [Shown("the dog", mask), Shown("a cat", ~mask, True)])
    legend = draw_legend(max(drawn[1], MIN_WIDTH), [Shown("the dog", mask)] * 2, (), max(drawn[1], MIN_WIDTH) // 42)
    assert overlay.shape == (drawn[0] + legend.height, drawn[1], 3) and overlay.dtype == np.uint8
    assert max(overlay.shape) <= MAX_SIDE + legend.height


def test_fifty_targets_and_tiny_ones(grey):
    rng = np.random.default_rng(0)
    targets = []
    for k in range(50):
        top, left = rng.integers(0, 190), rng.integers(0, 290)
        rows, columns = slice(top, top + rng.integers(1, 60)), slice(left, left + rng.integers(1, 60))
        targets.append(Shown(f"thing {k}", square((200, 300), rows=rows, columns=columns), k % 7 == 3))
    overlay = draw_overlay(grey, targets, caption=("What is there?", "Fifty things " * 40))
    assert overlay.shape[1] == MIN_SIDE and overlay.shape[0] > 1200
    colours = [colour(k) for k in range(100)]
    assert len(set(colours)) == 100 and colours[: len(COLOURS)] == list(COLOURS)
    assert all(re.fullmatch("#[0-9a-f]{6}", text) for text in colours)


def test_lines_fit_and_nothing_is_left_out():
    letters = Lettering(20)
    text = "the dog on the left of the " + "very " * 40 + "old chair"
    lines = letters.wrap(text, 300)
    assert len(lines) > 5 and all(letters.width(line) <= 300 for line in lines) and " ".join(lines) == text
    assert letters.wrap("", 300) == []
    assert "".join(letters.wrap("x" * 200, 300)) == "x" * 200
    short, long = (draw_legend(400, [Shown(text, np.ones((2, 2), bool))], (), 20).height for text in ("dog", text))
    assert long > short + 20 * len(lines)


# --- numbers


def spots(masks: list[np.ndarray], size: tuple[int, int], unit: int = 20) -> list[badges._Spot]:
    """Where numbers are put on a picture of (width, height), in the order of the masks."""
    found = []
    for mask in masks:
        found.append(badges._find_spot(mask, size, found, RADIUS * unit))
    return found


def test_a_number_stands_at_the_most_interior_point():
    rows, columns = np.indices((200, 300))
    disc = (rows - 120) ** 2 + (columns - 200) ** 2 < 50**2
    corridor = square((200, 300), rows=slice(100, 110), columns=slice(0, 200))
    for mask in (disc, disc | corridor):  # the corridor moves the middle of the mask, and no more
        (spot,) = spots([mask], (600, 400))
        assert np.hypot(spot.x - 400, spot.y - 240) < 6 and spot.radius == RADIUS * 20
        assert spot.point == (spot.x, spot.y)


def test_a_ring_has_its_number_in_the_ring():
    rows, columns = np.indices((200, 200))
    far = np.hypot(rows - 100, columns - 100)
    ring = (far > 50) & (far < 90)
    (spot,) = spots([ring], (200, 200), 10)
    assert abs(np.hypot(spot.x - 100, spot.y - 100) - 70) < 4


def test_distances_are_those_of_a_slow_loop():
    rng = np.random.default_rng(0)
    inside = rng.random((13, 9)) < 0.8
    outside = [
        (r, c) for r in range(-1, 14) for c in range(-1, 10) if not (0 <= r < 13 and 0 <= c < 9 and inside[r, c])
    ]
    expected = [[min(np.hypot(r - a, c - b) for a, b in outside) for c in range(9)] for r in range(13)]
    np.testing.assert_allclose(badges._distance(inside), expected, atol=1e-6)


def test_numbers_keep_clear_of_each_other_and_stay_on_the_picture():
    whole = square((100, 100), rows=slice(0, 100), columns=slice(0, 100))
    found = spots([whole] * 8, (400, 400))
    pairs = [(a, b) for k, a in enumerate(found) for b in found[:k]]
    assert all(np.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius - 1 for a, b in pairs)
    assert all(spot.radius <= spot.x <= 400 - spot.radius for spot in found)


@pytest.mark.parametrize("row, column", [(50, 50), (0, 0), (99, 99), (0, 60), (99, 3)])
def test_a_mask_too_small_for_its_number_has_it_beside(row, column):
    dot = square((100, 100), rows=slice(row, row + 1), columns=slice(column, column + 1))
    (spot,) = spots([dot], (400, 400))
    assert np.hypot(spot.point[0] - 4 * column - 2, spot.point[1] - 4 * row - 2) < 3
    assert np.hypot(spot.x - spot.point[0], spot.y - spot.point[1]) > spot.radius, "it covers nothing of it"
    assert spot.radius <= spot.x <= 400 - spot.radius and spot.radius <= spot.y <= 400 - spot.radius


def test_a_number_is_written_on_its_mask(grey):
    mask = square((200, 300), rows=slice(50, 150), columns=slice(100, 200))
    plain, numbered = (np.asarray(draw_marks(grey, marks)) for marks in ([Mark(mask, 1, 0)], [Mark(mask, 8, 0)]))
    rows, columns = np.nonzero((plain != numbered).any(-1))
    scale = MIN_SIDE / 300
    assert abs(rows.mean() / scale - 100) < 3 and abs(columns.mean() / scale - 150) < 3
    twice = np.asarray(draw_marks(grey, [Mark(mask, 1, 0), Mark(mask, 1, 1)]))
    middle = twice[int(100 * scale) - 8, int(150 * scale) - 8 : int(150 * scale) + 8].astype(float)
    assert np.abs(middle - rgb(colour(0))).sum(1).min() < 3, "one number, in the first colour"


def test_characters_without_a_font_are_spelled_or_boxed(monkeypatch):
    assert undrawable("the dog [SEG]") == ""
    monkeypatch.setattr(lettering, "_system_fonts", lambda: ())
    caches = lettering._font_of, lettering._runs
    for cache in caches:
        cache.cache_clear()
    try:
        spoken = "".join(run for run, _ in lettering._runs("café 🐶\u200d left"))
        assert spoken == "cafe :dog face: left"
        assert undrawable("le café 🐶 左左 ж") == "左ж"
        assert Lettering(20).width("左") > 0
    finally:
        for cache in caches:
            cache.cache_clear()


def test_results_are_written_and_read_back(tmp_path, grey):
    mask = square((200, 300), rows=slice(50, 150), columns=slice(100, 250))
    targets = [Shown("собака 🐶", mask, score=0.75), Shown("a cat", np.zeros((200, 300), bool), True, 0.01)]
    save_results(tmp_path, grey, targets)
    records = json.loads((tmp_path / "masks.json").read_text())
    assert [list(record) for record in records] == [
        ["expression", "rejected", "score", "segmentation", "bbox", "area"]
    ] * 2
    assert isinstance(records[0]["segmentation"]["counts"], str)
    np.testing.assert_array_equal(decode_mask(records[0]["segmentation"], (200, 300)), mask)
    assert (records[0]["expression"], records[0]["score"], records[0]["rejected"]) == ("собака 🐶", 0.75, False)
    assert (records[0]["bbox"], records[0]["area"]) == ([100, 50, 150, 100], 15000)
    assert (records[1]["rejected"], records[1]["bbox"], records[1]["area"]) == (True, [0, 0, 0, 0], 0)
    assert records == mask_records(targets)
    with Image.open(tmp_path / "overlay.png") as overlay:
        np.testing.assert_array_equal(np.asarray(overlay), draw_overlay(grey, targets))
    lines = [line.plain for line in describe(targets)]
    assert lines[0].split() == ["1", "собака", "🐶", "0.75", "25.0%", "of", "the", "picture"]
    assert lines[1].split() == ["2", "a", "cat", "[REJ]", "not", "there"]


def test_a_folder_that_cannot_be_written(tmp_path):
    assert prepare_folder(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "a" / f".{os.getpid()}.probe").mkdir()  # of a process with this number in another container
    assert prepare_folder(tmp_path / "a").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"can't write to the folder .*file/out"):
        prepare_folder(tmp_path / "file" / "out")
