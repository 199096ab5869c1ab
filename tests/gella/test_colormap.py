"""Colormaps: who is on top, who is hidden, colours that are never equal, and Painter's colours."""

import jax
import numpy as np
import pytest
from PIL import Image

from gella_jax.colormap import (
    EntityMap,
    choose_colours,
    draw_entities,
    location_colours,
    normalize_colormap,
    paint,
    painting_order,
    random_colours,
    repeatable_rng,
)

pytestmark = pytest.mark.quick


def boxes(*corners: tuple[int, int, int, int], size: tuple[int, int] = (12, 16)) -> np.ndarray:
    """Masks bool [M, H, W] of rectangles (top, left, bottom, right)."""
    masks = np.zeros((len(corners), *size), bool)
    for mask, (top, left, bottom, right) in zip(masks, corners, strict=True):
        mask[top:bottom, left:right] = True
    return masks


def blobs(count: int, size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping rectangles, no two of the same area, and scores."""
    rng, corners, areas = np.random.default_rng(seed), [], set()
    while len(corners) < count:
        top, left = (int(rng.integers(0, length - 1)) for length in size)
        height, width = int(rng.integers(1, size[0] - top + 1)), int(rng.integers(1, size[1] - left + 1))
        if height * width not in areas:
            areas.add(height * width)
            corners.append((top, left, top + height, left + width))
    return boxes(*corners, size=size), rng.random(count)


def test_small_masks_are_on_top_wherever_they_stand():
    masks = boxes((2, 2, 4, 4), (0, 0, 12, 10), (1, 1, 8, 8))
    entities = draw_entities(masks, np.ones(3), side=16)
    assert entities.inside == (12, 16) and entities.visible.all()
    assert entities.index[0, 0] == 2 and entities.index[1, 1] == 3 and entities.index[2, 2] == 1
    assert not entities.index[12:].any() and not entities.index[:, 10:].any()


def test_painting_order_of_ties():
    areas, scores = np.array([5, 9, 5, 5, 5]), np.array([0.5, 0.1, 0.4, 0.5, 0.9])
    assert painting_order(areas, scores).tolist() == [1, 2, 3, 0, 4]


def test_hidden_masks_are_reported_and_keep_their_places():
    same, halves = (0, 0, 6, 8), [(6, 0, 12, 4), (6, 4, 12, 8)]
    masks = boxes(same, same, (6, 0, 12, 8), *halves, (3, 3, 3, 3))
    entities = draw_entities(masks, np.array([0.3, 0.8, 1, 1, 1, 1]), side=16)
    # The twin with the lower score, the one that two smaller ones cover, and the empty one.
    assert entities.visible.tolist() == [False, True, False, True, True, False]
    assert np.unique(entities.index).tolist() == [0, 2, 4, 5]


def test_what_too_small_a_mask_covers_is_seen():
    masks = boxes((0, 0, 8, 8), (1, 1, 3, 3), (5, 5, 8, 8))
    entities = draw_entities(masks, np.ones(3), side=16, min_area=5)
    assert entities.visible.tolist() == [True, False, True]
    assert entities.index[1, 1] == 1 and entities.index[5, 5] == 3


def test_tiny_masks_may_vanish_in_a_small_colormap():
    masks = boxes((0, 0, 60, 60), (8, 8, 9, 9), (10, 10, 11, 11), size=(60, 80))
    entities = draw_entities(masks, np.ones(3), side=16)  # every fifth pixel, from the third
    assert entities.visible.tolist() == [True, False, False]
    masks[1, 12, 12] = True
    entities = draw_entities(masks, np.ones(3), side=16)
    assert entities.visible.tolist() == [True, True, False] and (entities.index == 2).sum() == 1
    # Five pixels of the picture are needed, and in the colormap as well.
    large, small = draw_entities(masks, np.ones(3), side=400, min_area=3), draw_entities(masks, np.ones(3), 16, 3)
    assert large.visible.tolist() == small.visible.tolist() == [True, False, False]
    assert not (large.index > 1).any() and not (small.index > 1).any()


@pytest.mark.parametrize("size, side", [((37, 53), 32), ((53, 37), 32), ((7, 90), 64), ((9, 6), 40), ((1, 300), 16)])
def test_geometry_is_that_of_a_picture(size, side):
    masks, scores = blobs(5, size, seed=1) if min(size) > 1 else (np.ones((1, *size), bool), np.ones(1))
    entities = draw_entities(masks, scores, side)
    full = draw_entities(masks, scores, max(size)).index[: size[0], : size[1]]
    height, width = entities.inside
    assert max(height, width) == side and entities.index.shape == (side, side)
    expected = Image.fromarray(full.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(entities.index[:height, :width], expected)
    assert not entities.index[height:].any() and not entities.index[:, width:].any()


def test_permuting_masks_permutes_the_outputs():
    masks, scores = blobs(30, (40, 60), seed=2)
    order = np.random.default_rng(3).permutation(30)
    here, there = draw_entities(masks, scores, 48), draw_entities(masks[order], scores[order], 48)
    np.testing.assert_array_equal(there.visible, here.visible[order])
    number = np.append(0, np.argsort(order) + 1)  # new number of each mask
    np.testing.assert_array_equal(there.index, number[here.index])
    colours = location_colours(here)
    np.testing.assert_array_equal(location_colours(there), colours[order])
    np.testing.assert_array_equal(paint(there.index, colours[order]), paint(here.index, colours))


def test_soft_masks_are_thresholded():
    masks, scores = blobs(4, (20, 30), seed=4)
    soft = np.where(masks, 0.51, 0.5).astype(np.float32)
    hard = draw_entities(masks, scores, 24)
    for same in (soft, masks.astype(np.uint8) * 255):
        np.testing.assert_array_equal(draw_entities(same, scores, 24).index, hard.index)


@pytest.mark.parametrize("kind", ["random", "location"])
def test_500_masks_have_500_colours(kind):
    rng = np.random.default_rng(5)
    corners = [(y, x, y + 1 + k % 3, x + 2) for k, (y, x) in enumerate(rng.integers(0, 40, (500, 2)).tolist())]
    entities = draw_entities(boxes(*corners, size=(60, 60)), rng.random(500), 120)
    seen = entities.visible
    assert 300 < seen.sum() < 500  # the others are the same boxes again
    colours = choose_colours(kind, entities, rng)
    assert colours.dtype == np.uint8 and colours.shape == (500, 3)
    assert len(np.unique(colours[seen], axis=0)) == seen.sum() and colours[seen].any(1).all()
    picture = paint(entities.index, colours)
    np.testing.assert_array_equal(picture[entities.index == 0], 0)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == seen.sum() + 1


@pytest.mark.parametrize("count", [0, 1, 53, 54, 500, 20_000])
def test_random_colours_are_separate_whatever_the_dice_say(count):
    class Extreme:
        """Moves every second colour as far as it may, and the others not at all."""

        choice = np.random.default_rng(0).choice

        def integers(self, low, high, size, endpoint):
            moves = np.full(size, low)
            moves[::2] = high if endpoint else high - 1
            return moves

    colours = random_colours(count, Extreme()).astype(int)
    levels = max(6, int(np.ceil((4 * count + 1) ** (1 / 3))))
    step = 765 // (3 * levels - 2)
    assert len(np.unique(colours // step, axis=0)) == count  # no two in the same cell of the lattice
    assert (colours >= step).any(1).all() and (colours % step < step / 3).all()


def test_random_colours_repeat_for_a_picture_and_a_seed():
    drawn = [random_colours(9, repeatable_rng(*key)) for key in [("7", 0), ("7", 0), ("8", 0), ("7", 1)]]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any() and (drawn[0] != drawn[3]).any()


def test_location_colours_are_those_of_painter(golden):
    painter = np.load(golden / "gella/gella_ref/painter_colormap.npz")
    labels, count = painter["labels"].astype(np.int32), painter["labels"].max()
    colours = location_colours(EntityMap(labels, labels.shape, np.ones(count, bool)))
    np.testing.assert_array_equal(paint(labels, colours), painter["colormap"])


def test_the_larger_of_two_masks_in_one_place_keeps_it():
    index = np.zeros((79, 79), np.int32)
    index[40, 40], index[39:42, 39:42:2], index[39:42:2, 40] = 1, 2, 3  # all three around the same pixel
    entities = EntityMap(index, index.shape, np.array([True, True, True, False]))
    colours = location_colours(entities)
    # Cell (40, 40) is the first of a coarse cell; one to the right blue falls, one to the right and below green, too.
    assert colours.tolist() == [[105, 242, 242], [105, 255, 255], [105, 255, 242], [0, 0, 0]]


def test_normalized_padding_is_background():
    entities = draw_entities(boxes((0, 0, 12, 16)), np.ones(1), 16)
    picture = paint(entities.index, np.array([[124, 116, 255]], np.uint8))
    values = np.asarray(jax.jit(normalize_colormap)(picture))
    assert values.dtype == np.float32
    background = -np.array([123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]
    np.testing.assert_allclose(values[12:], np.broadcast_to(background, (4, 16, 3)), rtol=1e-6)
    np.testing.assert_allclose(values[0, 0], [0.325 / 58.395, -0.28 / 57.12, 151.47 / 57.375], atol=1e-6)


def test_no_masks():
    entities = draw_entities(np.zeros((0, 4, 6), bool), np.zeros(0), 8)
    assert not entities.index.any() and entities.visible.shape == (0,)
    for kind in ("random", "location"):
        assert not paint(entities.index, choose_colours(kind, entities, np.random.default_rng(0))).any()


def test_errors_name_what_is_wrong():
    masks = boxes((0, 0, 2, 2))
    with pytest.raises(ValueError, match=r"scores \[M\], got \[1, 12, 16\] and \[2\]"):
        draw_entities(masks, np.ones(2), 16)
    with pytest.raises(ValueError, match="min_area is 0, should be at least 1"):
        draw_entities(masks, np.ones(1), 16, min_area=0)
    entities = draw_entities(masks, np.ones(1), 16)
    with pytest.raises(ValueError, match="is 'painter', should be random or location"):
        choose_colours("painter", entities, np.random.default_rng(0))
    with pytest.raises(ValueError, match="6401 masks are visible, but there are 6400 places"):
        location_colours(entities._replace(visible=np.ones(6401, bool)))
