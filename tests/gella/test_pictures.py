"""What becomes of GELLA's answers: pictures with captions, a page, json, and lines of the terminal."""

import base64
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from gella_jax import prompts, results
from gella_jax.panoptic import PanopticAnswer, Segment
from gella_jax.predict import Grounding, Noun, Nouns, Reference
from grounding_jax.data.entity_masks import Entities, read_masks
from grounding_jax.data.sources.panoptic_classes import Category
from grounding_jax.drawing import paragraph
from grounding_jax.drawing.legend import BACKGROUND, TEXT, colour
from grounding_jax.drawing.lettering import Lettering
from grounding_jax.drawing.overlay import draw_marks, draw_spotlight
from grounding_jax.drawing.paragraph import NO_BREAK, Piece, draw_paragraphs
from grounding_jax.files.masks import decode_mask

SIZE = (40, 60)
CAPTION = "A dog and <b>two cats</b> lie on the couch, & the dog sleeps."


def rgb(text: str) -> np.ndarray:
    return np.array([int(text[k : k + 2], 16) for k in (1, 3, 5)], float)


def entities(size: tuple[int, int] = SIZE, count: int = 4) -> Entities:
    """Stripes from left to right, the first two alike."""
    masks, width = np.zeros((count, *size), bool), -(-size[1] // count)
    for k in range(count):
        masks[k, :, max(k, 1) * width - width : max(k, 1) * width] = True
    ids = tuple(range(10, 10 + count))
    return Entities(masks, ids, ("dog", "cat", "cat", "13")[:count], np.linspace(1, 0.5, count, dtype=np.float32))


def grounding(caption: str = CAPTION, nouns=None, size: tuple[int, int] = SIZE, left_out=(0, 0)) -> Grounding:
    """Nouns, each with the places of its masks, as a model would answer."""
    nouns = {"A dog": (0,), "two cats": (2, 1), "the couch": (), "a <i>bird</i>": (3,)} if nouns is None else nouns
    found = entities(size)
    spans = prompts.find_spans(list(nouns), caption)
    answers = []
    for (text, places), span in zip(nouns.items(), spans, strict=True):
        scores = np.zeros(4, np.float32)
        scores[list(places)] = np.linspace(0.9, 0.6, len(places))
        answers.append(Noun(text, span, places, scores, found.masks[list(places)].any(0)))
    return Grounding(
        "an answer",
        caption,
        tuple(answers),
        found,
        {"hidden": tuple(range(left_out[0])), "surplus": tuple(range(left_out[1]))},
    )


@pytest.fixture
def image() -> np.ndarray:
    return np.full((*SIZE, 3), 120, np.uint8)


# --- paragraphs


def test_a_paragraph_is_broken_between_words_and_says_everything():
    letters = Lettering(20)
    text = "the dog on the left of the " + "very " * 40 + "old chair, " + "x" * 200 + " and more"
    pieces = [Piece("In front: "), Piece(text, 3), Piece(", that is all.")]
    runs = paragraph._place(pieces, 300, letters)
    assert "".join(run.text for run in runs) == "".join("".join(piece.text for piece in pieces).split())
    assert all(run.x + letters.width(run.text) <= 300 for run in runs)
    starts = [run.text for run in runs if run.x == 0]
    assert starts[0] == "In" and sum(set(start) == {"x"} for start in starts) >= 5
    assert [run.line for run in runs] == sorted(run.line for run in runs)
    more, comma = runs[-5:-3]  # one word, though of two pieces
    assert (more.text, comma.text) == ("more", ",")
    assert (comma.line, comma.x) == (more.line, pytest.approx(more.x + letters.width("more")))


def test_no_line_ends_at_a_space_without_a_break():
    letters = Lettering(20)
    text = "one two three four five".replace("two three", f"two{NO_BREAK}three")
    for width in range(60, 300, 10):
        runs = paragraph._place([Piece(text)], width, letters)
        assert "".join(run.text for run in runs).replace(" ", "") == "onetwothreefourfive"
        if width > letters.width("two three"):
            assert "two three" in [run.text for run in runs]


def test_words_of_a_paragraph_have_the_colours_of_their_targets():
    strip = np.asarray(draw_paragraphs(400, [[Piece("grey "), Piece("dog", 0), Piece(" cat", 1)]], 30), float)

    def columns_of(text: str) -> np.ndarray:
        return np.flatnonzero((np.abs(strip - rgb(text)).sum(-1) < 12).any(0))

    plain, first, second = columns_of(TEXT), columns_of(colour(0)), columns_of(colour(1))
    assert plain.max() < first.min() < first.max() < second.min()
    assert (strip[0] == rgb(BACKGROUND)).all() and strip.shape[1] == 400


def test_a_script_from_right_to_left_is_laid_out_so():
    assert paragraph._is_right_to_left("1. كلب and a dog") and not paragraph._is_right_to_left("a dog كلب")
    strip = np.asarray(draw_paragraphs(400, [[Piece("كلب", 0), Piece(" هنا")]], 30), float)
    named = np.flatnonzero((np.abs(strip - rgb(colour(0))).sum(-1) < 12).any(0))
    other = np.flatnonzero((np.abs(strip - rgb(TEXT)).sum(-1) < 12).any(0))
    assert other.max() < named.min() and named.max() > 300


def test_quiet_and_empty_paragraphs():
    quiet = np.asarray(draw_paragraphs(300, [[Piece("a bird", 2, quiet=True)]], 20), float)
    assert np.abs(quiet - rgb(colour(2))).sum(-1).min() > 60  # nothing in the colour of the target
    texts = [], [[]], [[Piece("a")]], [[Piece("a")]] * 3
    heights = [draw_paragraphs(300, paragraphs, 20).height for paragraphs in texts]
    assert heights[0] == heights[1] < heights[2] and heights[3] - heights[2] > 2 * (heights[2] - heights[1])


# --- captions


def test_the_pieces_of_a_caption_are_the_caption():
    pieces = results.caption_pieces(grounding())
    assert "".join(piece.text for piece in pieces) == CAPTION
    assert [(p.text, p.index, p.quiet) for p in pieces if p.index is not None] == [
        ("A dog", 0, False),
        ("two cats", 1, False),
        ("the couch", 2, True),  # it means nothing
    ]


def test_nouns_may_come_in_any_order():
    pieces = results.caption_pieces(grounding(nouns={"the couch": (1,), "A dog": (0,), "the dog": (0,)}))
    assert [piece.index for piece in pieces if piece.index is not None] == [1, 0, 2]
    assert "".join(piece.text for piece in pieces) == CAPTION


def said(answer: Grounding) -> str:
    return "".join(piece.text for piece in results.noun_list(answer)).replace(NO_BREAK, " ")


def test_the_list_has_every_noun_with_the_numbers_of_its_masks():
    answer = grounding(size=(40, 60))
    assert said(answer) == "A dog: 1 · two cats: 2, 3 · the couch: no mask · a <i>bird</i>: 4 (not in the caption)"
    listed = [(piece.index, piece.quiet) for piece in results.noun_list(answer) if piece.index is not None]
    assert listed == [(0, False), (1, False), (2, True), (3, False)]
    assert results.mask_numbers(answer) == {0: 1, 2: 2, 1: 3, 3: 4}
    assert said(grounding(nouns={})) == ""
    twice = grounding(nouns={"A dog": (1, 0), "the dog": (0,), "two cats": (1, 3)})
    assert said(twice) == "A dog: 1, 2 · the dog: 2 · two cats: 1, 3"
    assert [(mark.number, mark.index) for mark in results.noun_marks(twice)] == [(1, 0), (2, 0), (2, 1), (1, 2), (3, 2)]
    empty = answer.entities._replace(masks=answer.entities.masks & ~answer.entities.masks[2])
    nothing = dataclasses.replace(answer.nouns[1], masks=(2,), mask=empty.masks[2])
    answer = dataclasses.replace(answer, entities=empty, nouns=(nothing, answer.nouns[3]))
    assert said(answer) == "two cats: empty mask · a <i>bird</i>: 1 (not in the caption)"
    assert results.grounding_record("", answer)["masks"][3]["number"] == 1


def test_the_list_is_complete_however_many_there_are(image):
    nouns = {f"noun number {k}": tuple(range(4)) for k in range(200)}
    answer = grounding("a caption", nouns)
    text = said(answer)
    assert text.count("noun number") == 200 and text.count(": 1, 2, 3, 4") == 200
    letters = Lettering(20)
    runs = paragraph._place(results.noun_list(answer), 600, letters)
    assert "".join(run.text for run in runs).replace(" ", "") == text.replace(" ", "")
    assert all(run.x + letters.width(run.text) <= 600 for run in runs)


# --- files


def test_a_grounding_as_json(image, tmp_path):
    answer = grounding(left_out=(1, 2))
    results.save_grounding(tmp_path, "dogs/a.png", image, answer)
    content = json.loads((tmp_path / "grounding.json").read_text())
    assert list(content) == ["image", "caption", "described", "answer", "masks", "nouns", "left_out"]
    assert (content["image"], content["caption"], content["answer"]) == ("dogs/a.png", CAPTION, "an answer")
    assert content["left_out"] == {"hidden": 1, "surplus": 2}
    masks = content["masks"]
    assert [(mask["id"], mask["name"]) for mask in masks] == [(10, "dog"), (11, "cat"), (12, "cat"), (13, "13")]
    assert [mask["number"] for mask in masks] == [1, 3, 2, 4]
    for k, mask in enumerate(masks):
        np.testing.assert_array_equal(decode_mask(mask["segmentation"], SIZE), answer.entities.masks[k])
        assert mask["area"] == 600 and mask["score"] == pytest.approx(answer.entities.scores[k], abs=1e-6)
    cats, couch = content["nouns"][1:3]
    assert (cats["text"], cats["mask_ids"], cats["places"]) == ("two cats", [12, 11], [2, 1])
    assert CAPTION[slice(*cats["span"])] == "two cats" and content["nouns"][3]["span"] is None
    assert cats["scores"] == pytest.approx([0, 0.6, 0.9, 0]) and cats["score"] == pytest.approx(0.9)
    assert (couch["mask_ids"], couch["score"], couch["absent"]) == ([], 0, False)
    assert "score" not in results.grounding_record("", answer_without_scores(answer))["masks"][0]


def answer_without_scores(answer: Grounding) -> Grounding:
    return Grounding(answer.text, answer.caption, answer.nouns, answer.entities._replace(scores=None), answer.left_out)


def test_a_grounding_as_a_picture(image, tmp_path):
    answer = grounding()
    results.save_grounding(tmp_path, "a.png", image, answer)
    with Image.open(tmp_path / "grounding.png") as file:
        drawn = np.asarray(file)
    painted = np.asarray(draw_marks(image, results.noun_marks(answer)))
    offset = (drawn.shape[1] - painted.shape[1]) // 2
    np.testing.assert_array_equal(drawn[: painted.shape[0], offset : offset + painted.shape[1]], painted)
    strip = drawn[painted.shape[0] :].astype(float)
    for k, seen in enumerate((True, True, False, True)):
        assert (np.abs(strip - rgb(colour(k))).sum(-1) < 12).any() == seen


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (900, 40), (3000, 4000)])
def test_a_picture_of_any_size(tmp_path, size):
    image = np.zeros((*size, 3), np.uint8)
    results.save_grounding(tmp_path, "a.png", image, grounding(size=size))
    with Image.open(tmp_path / "grounding.png") as drawn:
        assert 640 <= drawn.width <= 2048 and drawn.height <= 2048 + 400


def test_a_page_stands_alone_and_shows_text_as_text(image, tmp_path):
    answer = grounding(left_out=(1, 0))
    results.save_grounding(tmp_path, "<a>.png", image, answer)
    page = (tmp_path / "grounding.html").read_text()
    text = re.sub(r"data:image/(jpeg|png);base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//|<link|@import|url\(|<b>|<i>bird|<a>", text)
    assert "&lt;b&gt;" in text and "&amp; the dog sleeps." in text and "<title>&lt;a&gt;.png</title>" in text
    shown = re.findall(r'<mark data-noun="(\d)" style="--own: (#\w+)".*?>(.*?)</mark>', text)
    assert shown == [("0", colour(0), "A dog"), ("1", colour(1), "two cats")]
    assert '<mark class="quiet">the couch</mark>' in text
    rows = re.findall(
        r"<tr .*?><td><strong>(.*?)</strong>(.*?)</td><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td></tr>", text
    )
    assert rows == [
        ("A dog", "", "<span><i>1</i>dog</span> ", "0.90", "25.0%"),
        ("two cats", "", "<span><i>2</i><i>3</i>cat</span> ", "0.90", "50.0%"),
        ("the couch", "", "no mask", "0.00", ""),
        ("a &lt;i&gt;bird&lt;/i&gt;", " <small>not in the caption</small>", "<span><i>4</i></span> ", "0.90", "25.0%"),
    ]
    assert re.findall('data-light="(.)"', text) == ["0", "1", "3"]
    assert text.count("<tr") == 1 + 4 and "masks left out: 1, nothing is seen of them" in text
    pictures = [base64.b64decode(data) for data in re.findall(r"base64,([\w+/=]+)", page)]
    assert len({Image.open(io.BytesIO(data)).size for data in pictures}) == 1 and len(pictures) == 2 + 3


def test_a_spotlight_darkens_what_is_not_meant():
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:20] = True
    light = np.asarray(draw_spotlight(mask, (300, 200), 1))
    assert light.shape == (200, 300, 4) and light[100, 150, 3] == 0 and light[20, 20, 3] > 128
    edge = light[100, 92:108]
    assert np.abs(edge[:, :3] - rgb(colour(1))).sum(1).min() < 10 and edge[:, 3].max() == 255


def test_a_reference_as_files(image, tmp_path):
    found = entities()
    reference = Reference("the cat", "an answer", ("the cat",), 2, 0.75, found.masks[2])
    results.save_reference(tmp_path, "a.jpg", image, reference, found)
    (record,) = json.loads((tmp_path / "masks.json").read_text())
    keys = "image", "expression", "mask_id", "place", "score"
    assert [record[key] for key in keys] == ["a.jpg", "the cat", 12, 2, 0.75]
    np.testing.assert_array_equal(decode_mask(record["segmentation"], SIZE), found.masks[2])
    assert (tmp_path / "overlay.png").exists()
    (line,) = results.describe_reference(reference, found)
    assert line.plain == '  the cat   0.75    25.0% of the picture   mask 3 of 4 "cat"'
    nothing = Reference(
        "a bird", "", ("a bird",), None, 0.0, np.zeros(SIZE, bool), {"hidden": (0, 1, 2, 3), "surplus": ()}
    )
    assert results.describe_reference(nothing, found)[1].plain == "masks left out: 4, nothing is seen of them"
    results.save_reference(tmp_path, "a.jpg", image, nothing, found)
    (record,) = json.loads((tmp_path / "masks.json").read_text())
    assert (record["mask_id"], record["place"], record["area"]) == (None, None, 0)


def test_a_panoptic_map_is_read_back(image, tmp_path):
    categories = (Category(3, "dog", True), Category(7, "wall-brick", False), Category(300, "cat", True))
    ids = np.zeros(SIZE, np.int32)
    ids[:, :15], ids[:20, 30:], ids[20:, 30:] = 1, 2, 3
    segments = (Segment(1, categories[2], 0.75), Segment(2, categories[1], 0.5), Segment(3, categories[2], 1.0))
    panoptic = PanopticAnswer(ids, segments, {"hidden": (), "surplus": (), "improbable": (1, 2), "covered": (0,)})
    results.save_panoptic(tmp_path, "a.jpg", image, panoptic, categories)
    for source in ("panoptic.png", "panoptic.json"):
        read = read_masks(tmp_path / source, SIZE)
        assert (read.ids, read.names, read.category_ids) == ((1, 2, 3), ("cat", "wall-brick", "cat"), (300, 7, 300))
        np.testing.assert_array_equal(read.masks, [ids == 1, ids == 2, ids == 3])
        np.testing.assert_array_equal(read.scores, [0.75, 0.5, 1])
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}]
    assert [category["isthing"] for category in content["categories"]] == [1, 0, 1]
    lines = [line.plain for line in results.describe_panoptic(panoptic)]
    assert lines[1] == "    #2 wall-brick   0.50    25.0% of the picture   stuff"
    assert lines[3:] == [
        "25.0% of the picture is in no segment",
        "masks left out: 2, no category is probable enough",
        "masks left out: 1, others have too many of their pixels",
    ]
    results.save_panoptic(tmp_path, "a.jpg", image, PanopticAnswer(np.zeros(SIZE, np.int32), ()), categories)
    assert json.loads((tmp_path / "panoptic.json").read_text())["annotations"][0]["segments_info"] == []


# --- lines


def test_lines_of_a_grounding():
    lines = [line.plain for line in results.describe_grounding(grounding(left_out=(1, 2)))]
    assert lines[:4] == [
        '  A dog           0.90    25.0% of the picture   #1 "dog"',
        '  two cats        0.90    50.0% of the picture   #2 #3 "cat"',
        "  the couch       0.00                           no mask",
        "  a <i>bird</i>   0.90    25.0% of the picture   #4",
    ]
    assert lines[4] == "1 of 4 nouns not in the caption: a <i>bird</i>"
    assert lines[5:] == [
        "masks left out: 1, nothing is seen of them",
        "masks left out: 2, more than the model takes, the smallest",
    ]
    assert [line.plain for line in results.describe_grounding(grounding(nouns={}))] == ["no nouns"]


def test_what_is_absent_is_said(image, tmp_path):
    answer = grounding()
    absent = dataclasses.replace(answer.nouns[2], scores=np.array([0, 0.3, 0.2, 0], np.float32), absent=True)
    answer = dataclasses.replace(answer, nouns=(*answer.nouns[:2], absent, *answer.nouns[3:]))
    line = results.describe_grounding(answer)[2].plain
    assert line.split()[:6] == ["the", "couch", "0.30", "not", "in", "the"]
    assert "the couch: not in the picture" in said(answer)
    results.save_grounding(tmp_path, "a.png", image, answer)
    nouns = json.loads((tmp_path / "grounding.json").read_text())["nouns"]
    assert [noun["absent"] for noun in nouns] == [False, False, True, False]
    assert (nouns[2]["mask_ids"], nouns[2]["score"]) == ([], 0.3)
    page = (tmp_path / "grounding.html").read_text()
    assert "<td><strong>the couch</strong></td><td>not in the picture</td><td>0.30</td><td></td>" in page


def test_lines_of_nouns(tmp_path):
    answer = Nouns("an answer", ("A dog", "a bird"), ((0, 5), None))
    assert [line.plain for line in results.describe_nouns(answer)] == [
        "   1 A dog    characters 0 to 5",
        "   2 a bird   not in the caption",
    ]
    results.save_nouns(tmp_path, "a.png", CAPTION, answer)
    content = json.loads((tmp_path / "nouns.json").read_text())
    assert content["nouns"] == [{"text": "A dog", "span": [0, 5]}, {"text": "a bird", "span": None}]
