"""Pictures and expressions of one's own, listed in a jsonl file."""

import json

import numpy as np
import pytest
from PIL import Image

from grounding_jax.data.check import check_dataset
from grounding_jax.data.datasets import open_dataset
from grounding_jax.evaluation.run import find_task
from gsva_jax.data.samplers import draw_sample
from gsva_jax.evaluation.tasks import TASKS
from tests.small_datasets import box_mask, encodings, write_picture

pytestmark = pytest.mark.quick

SIZE = (40, 56)
BOXES = (3, 4, 30, 20), (10, 2, 50, 39)
NAME = "jsonl|own/train.jsonl"


def save(folder, *lines):
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text(
        "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    )


@pytest.fixture
def root(tmp_path):
    """A list of two pictures below a folder; masks in all forms, one of them a file."""
    folder = tmp_path / "own"
    write_picture(folder / "pictures" / "a.jpg", np.random.default_rng(0), SIZE)
    write_picture(folder / "pictures" / "b.jpg", np.random.default_rng(1), SIZE, grey=True)
    Image.fromarray(box_mask(SIZE, BOXES[1]).astype(np.uint8) * 7).save(folder / "mask.png")
    polygons, uncompressed, compressed, several = encodings(SIZE, BOXES[0])
    first = [
        {"text": "The dog.", "masks": [polygons]},
        {"text": "both", "masks": [compressed, "mask.png"]},
        {"text": "a giraffe", "masks": []},
        {"text": "the file", "masks": ["mask.png"]},
    ]
    second = [{"text": "dog", "masks": [uncompressed]}, {"text": "dog again", "masks": [several]}]
    save(
        folder,
        {"image": "pictures/a.jpg", "expressions": first},
        "",
        {"image": "pictures/b.jpg", "expressions": second},
    )
    return tmp_path


def test_records(root):
    source = open_dataset(root, NAME)
    assert len(source) == 2 and source.name == NAME
    first, second = source
    box, other = (box_mask(SIZE, box) for box in BOXES)
    assert first.raw_expressions == ("The dog.", "both", "a giraffe", "the file")
    assert first.expressions[0] == "the dog" and first.image == root / "own" / "pictures" / "a.jpg"
    np.testing.assert_array_equal(first.masks, [box, box | other, np.zeros(SIZE, bool), other])
    assert first.rejected.tolist() == [False, False, True, False]
    np.testing.assert_array_equal(second.masks, [box, box])
    assert (first.image_id, second.image_id) == (1, 3), "the numbers of the lines"


def test_training_evaluating_and_checking_take_it(root):
    sample = draw_sample(open_dataset(root, NAME)[0], np.random.default_rng(0), 4)
    question, answer = sample.conversations[0][0]
    assert "a giraffe" in question and answer.count("[REJ]") == 1 and answer.count("[SEG]") == 3
    assert sample.masks.any((1, 2)).sum() == 3
    assert find_task(TASKS, NAME, "generated") is TASKS["grefcoco|unc|val"]
    checked = check_dataset(root, NAME, lambda *_: None)
    assert (checked.pictures, checked.expressions, checked.problem) == (2, 6, None)


GOOD = {"image": "pictures/a.jpg", "expressions": [{"text": "dog", "masks": []}]}


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "7",
        {"image": "pictures/a.jpg"},
        {"image": 3, "expressions": GOOD["expressions"]},
        {"image": "pictures/a.jpg", "expressions": []},
        {"image": "pictures/a.jpg", "expressions": ["dog"]},
        {"image": "pictures/a.jpg", "expressions": [{"text": "dog"}]},
        {"image": "pictures/a.jpg", "expressions": [{"text": " ", "masks": []}]},
        {"image": "pictures/a.jpg", "expressions": [{"text": "dog", "masks": "mask.png"}]},
        {**GOOD, "split": "train"},
        {"image": "pictures/a.jpg", "expressions": [{"text": "dog", "masks": [], "mask": "mask.png"}]},
    ],
)
def test_a_line_of_another_form(root, bad):
    save(root / "own", GOOD, bad)
    with pytest.raises(
        ValueError, match=r'train.jsonl, line 2 .*; a line should be like \{"image": FILE, "expressions": \[\{"text"'
    ):
        open_dataset(root, NAME)


@pytest.mark.parametrize(
    "mask, message",
    [
        ("no.png", ": there is no PNG of segments '.*no.png'"),
        ("pictures/a.jpg", r": cannot read the PNG of segments .* it is not a format that is read here \(PNG\)"),
        ("small.png", ": the mask small.png of 'dog' has 8 x 9 pixels, its picture 40 x 56"),
        ([1, 2, 3, 4, 5, 6], r" at \$.expressions\[0\].masks\[0\]\[0\]: expected `object | array`, got `int`"),
        ({"size": [8, 9], "counts": [72]}, ": a mask of 'dog' is damaged: run lengths of size"),
        (7, r" at \$.expressions\[0\].masks\[0\]: expected `str | object | array`, got `int`"),
    ],
)
def test_a_bad_mask_is_named_with_its_line(root, mask, message):
    Image.new("L", (9, 8)).save(root / "own" / "small.png")
    save(root / "own", GOOD, {**GOOD, "expressions": [{"text": "dog", "masks": [mask]}]})
    with pytest.raises(ValueError, match=f"train.jsonl, line 2{message}"):
        _ = open_dataset(root, NAME)[1]


def test_what_is_missing(root):
    save(root / "own", {**GOOD, "image": "c.jpg"})
    with pytest.raises(ValueError, match="train.jsonl, line 1: there is no picture '.*c.jpg'"):
        open_dataset(root, NAME)[0]
    save(root / "own", "", " ")
    with pytest.raises(ValueError, match="train.jsonl is empty: it needs lines like"):
        open_dataset(root, NAME)
    with pytest.raises(FileNotFoundError, match="missing: .*val.jsonl"):
        open_dataset(root, "jsonl|own/val.jsonl")
