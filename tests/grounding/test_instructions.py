"""Instruction data: what is read of an entry, what is said of a bad one, and that packing changes nothing."""

import dataclasses
import json
import re

import numpy as np
import pytest

from gella_jax.cli import main
from grounding_jax.data.check import check_dataset
from grounding_jax.data.datasets import instruction_names, open_dataset
from grounding_jax.data.packed.packing import prepare
from grounding_jax.files.pictures import open_picture
from tests.small_datasets import box_mask, run_lengths, write_json, write_picture
from tests.small_panoptic import write_panoptic_tree

pytestmark = pytest.mark.quick

PICTURE, PNG = "coco/val2017/000000000139.jpg", "coco/annotations/panoptic_segmentation/val2017/000000000139.png"
CAPTION = "Two people stand at a wall."
NOUNS = [
    {"text": "Two people", "start": 0, "end": 10, "segment_ids": [7, 300]},
    {"text": "a wall", "start": 20, "end": 26, "segment_ids": [70_000]},
]
NOUN = {"text": "A  dog", "start": 0, "end": 5}
ENTRIES = [
    {"id": 1, "image": PICTURE, "task": "describe", "caption": "A long description.\n\nOf two paragraphs."},
    {"id": "b", "image": PICTURE, "task": "ground", "caption": CAPTION, "nouns": NOUNS, "masks": PNG},
    {"id": 3, "image": "other/x.jpg", "task": "nouns", "caption": "a dog.", "nouns": [NOUN]},
    {
        "id": 4, "image": "other/x.jpg", "task": "ground", "caption": "The dog", "masks": "other/x.json",
        "nouns": [{"text": "dog", "start": 4, "end": 7, "segment_ids": [1]}, {"text": "The dog", "start": 0, "end": 7}],
    },
]  # fmt: skip
NAMES = [f"instructions|train|{task}" for task in ("describe", "nouns", "ground")]
OVERLAPPING = [(0, 0, 20, 12), (5, 5, 9, 9)]


@pytest.fixture
def root(tmp_path):
    write_panoptic_tree(tmp_path)
    write_picture(tmp_path / "other" / "x.jpg", np.random.default_rng(0), (12, 20))
    rles = [{"size": [12, 20], "counts": run_lengths(box_mask((12, 20), box))} for box in OVERLAPPING]
    write_json(tmp_path / "other" / "x.json", [{"id": k, "segmentation": rle} for k, rle in enumerate(rles)])
    write_json(tmp_path / "instructions" / "train.json", ENTRIES)
    return tmp_path


def test_entries_of_each_task(root):
    sources = [open_dataset(root, name) for name in NAMES]
    assert [(source.name, len(source)) for source in sources] == [(NAMES[0], 1), (NAMES[1], 1), (NAMES[2], 2)]
    description, noun, (ground, overlapping) = (sources[0][0], sources[1][0], [sources[2][i] for i in range(2)])
    assert (description.id, description.caption, description.raw_expressions) == (1, ENTRIES[0]["caption"], ())
    assert description.entities is None and str(description.image) == str(root / PICTURE)
    assert (noun.raw_expressions, noun.spans, noun.segment_ids, noun.entities) == (("A  dog",), ((0, 5),), ((),), None)
    assert (ground.id, ground.caption, ground.size) == ("b", CAPTION, (12, 20))
    assert ground.raw_expressions == ("Two people", "a wall") and ground.spans == ((0, 10), (20, 26))
    assert ground.segment_ids == ((7, 300), (70_000,))
    entities = ground.entities
    assert entities.ids == (7, 300, 70_000), "the crowd of the json is left out"
    np.testing.assert_array_equal(entities.masks[2], box_mask((12, 20), (12, 2, 16, 12)))
    np.testing.assert_array_equal(ground.masks[0], entities.masks[0] | entities.masks[1])
    assert overlapping.segment_ids == ((1,), ()) and overlapping.entities.ids == (0, 1)
    np.testing.assert_array_equal(overlapping.entities.masks, [box_mask((12, 20), box) for box in OVERLAPPING])
    np.testing.assert_array_equal(overlapping.masks, [box_mask((12, 20), OVERLAPPING[1]), np.zeros((12, 20), bool)])


def test_packed_records_are_the_same(root, tmp_path):
    out = tmp_path / "packed"
    ended = list(prepare(root, out, instruction_names(root), 1, lambda *_: None))
    assert [(packed.name, packed.problem) for packed in ended] == [(name, None) for name in NAMES]
    assert instruction_names(out) == NAMES
    for name in NAMES:
        before, after = open_dataset(root, name), open_dataset(out, name)
        assert len(before) == len(after)
        for i in range(len(before)):
            fields = [field.name for field in dataclasses.fields(before[i]) if field.name != "image"]
            assert [getattr(before[i], one) for one in fields] == [getattr(after[i], one) for one in fields]
            np.testing.assert_array_equal(open_picture(before[i].image), open_picture(after[i].image))


def test_check(root, capsys):
    checked = [check_dataset(root, name, lambda *_: None) for name in NAMES]
    assert [(one.problem, one.pictures, one.expressions) for one in checked] == [
        (None, 1, 1),
        (None, 1, 1),
        (None, 2, 4),
    ]
    write_json(root / "instructions" / "few.json", ENTRIES[:1])
    assert main(["data", "check", str(root)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "instructions|train|ground" in printed and "instructions|few|describe" in printed
    assert "few.json has no entry for the task 'ground'" in printed


def test_names(root):
    for name in (
        "instructions|train",
        "instructions|../x|ground",
        "instructions|train|refer",
        "instructions|Train|ground",
    ):
        with pytest.raises(
            ValueError, match=r"instructions/FILE.json is instructions\|FILE\|TASK, with a task of describe"
        ):
            open_dataset(root, name)
    with pytest.raises(FileNotFoundError, match="none.json"):
        open_dataset(root, "instructions|none|ground")
    with pytest.raises(ValueError, match=r"and instructions\|FILE\|TASK and jsonl\|FILE for one's own"):
        open_dataset(root, "instruction|train|ground")


BROKEN = [  # a change of entry 1, and what is said when the file is opened
    (lambda entry: entry.update(bbox=[]), r"at \$\[1\]: object contains unknown field `bbox`"),
    (lambda entry: entry["nouns"][0].update(segments=[7]), r"at \$\[1\].nouns\[0\]: object contains unknown field"),
    (lambda entry: entry.pop("caption"), r"at \$\[1\]: object missing required field `caption`"),
    (lambda entry: entry.update(task="talk"), r"at \$\[1\].task: invalid enum value 'talk'"),
    (lambda entry: entry["nouns"][1].update(start="20"), r"at \$\[1\].nouns\[1\].start: expected `int`, got `str`"),
    (lambda entry: entry["nouns"][1].update(text=" "), r"at \$\[1\].nouns\[1\].text: expected `str` matching regex"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), BROKEN)
def test_a_file_of_another_form(root, change, reason):
    file = root / "instructions" / "train.json"
    entries = json.loads(file.read_text())
    change(entries[1])
    write_json(file, entries)
    with pytest.raises(ValueError, match=rf"^{re.escape(str(file))} {reason}"):
        open_dataset(root, NAMES[2])


BAD = [  # a change of entry 1, and what is said when it is read
    (lambda entry: entry.update(nouns=[]), "has no nouns, which the task 'ground' needs"),
    (lambda entry: entry.update(masks=None), "has no masks, which the task 'ground' needs"),
    (lambda entry: entry["nouns"][1].update(start=18), "the caption has 't a wall' from 18 to 26, where 'a wall'"),
    (lambda entry: entry["nouns"][1].update(end=99), "the caption has '' from 20 to 99, where 'a wall' should be"),
    (lambda entry: entry["nouns"][1].update(text="a hall"), "the caption has 'a wall' from 20 to 26, where 'a hall'"),
    (lambda entry: entry["nouns"][0].update(segment_ids=[8]), f"'Two people' means segment 8, which {PNG} lacks;"),
    (lambda entry: entry["nouns"][0].update(segment_ids=[9_000_001]), "'Two people' means segment 9000001, which"),
    (lambda entry: entry.update(masks="nowhere.png"), "there are no masks '"),
    (lambda entry: entry.update(image="other/none.jpg"), "none.jpg"),
    (lambda entry: entry.update(image="../x.jpg"), "names the file '../x.jpg', which is not below"),
    (lambda entry: entry.update(image="coco/val2017/000000000285.jpg"), "has 12 x 20 pixels, but the picture"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_a_bad_entry_is_named(root, change, reason):
    """The others are read all the same, so that training replaces it."""
    file = root / "instructions" / "train.json"
    entries = json.loads(file.read_text())
    change(entries[1])
    write_json(file, entries)
    source = open_dataset(root, NAMES[2])
    with pytest.raises(ValueError) as raised:
        source[0]
    message = str(raised.value)
    assert message.startswith(f"{file}, entry 1 (id 'b'): ") and reason in message and "\n" not in message
    assert source[1].id == 4
