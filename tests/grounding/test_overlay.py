"""Overlays, their legends and letters, and the files and lines that an answer becomes."""

import dataclasses
import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from grounding_jax.drawing import lettering
from grounding_jax.drawing.legend import COLOURS, colour, draw_legend, verdict
from grounding_jax.drawing.lettering import Lettering, undrawable
from grounding_jax.drawing.overlay import MAX_SIDE, MIN_SIDE, MIN_WIDTH, draw_overlay
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


def test_lines_fit_and_what_does_not_is_marked():
    letters = Lettering(20)
    text = "the dog on the left of the " + "very " * 40 + "old chair"
    lines = letters.wrap(text, 300, 2)
    assert len(lines) == 2 and lines[0].startswith("the dog") and lines[1].endswith("...")
    assert all(letters.width(line) <= 300 for line in lines)
    whole = letters.wrap(text, 300, 99)
    assert " ".join(whole) == text
    assert letters.wrap("", 300, 2) == []
    assert "".join(letters.wrap("x" * 200, 300, 99)) == "x" * 200


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
