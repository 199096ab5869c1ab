"""Sources of the datasets that training reads, compared with the arrays that small trees were written from."""

import json
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.sources.class_names import ADE20K_CLASSES, COCO_STUFF_CLASSES
from grounding_jax.data.sources.narratives import NARRATIVE_DATASETS
from grounding_jax.data.sources.own_data import OWN_DATA
from grounding_jax.data.sources.parts import PART_DATASETS, part_wordings
from grounding_jax.data.sources.reasonseg import REASONSEG_DATASETS
from grounding_jax.data.sources.refer import REFER_DATASETS
from grounding_jax.data.sources.registry import KNOWN_DATASETS
from grounding_jax.data.sources.semantic import SEMANTIC_DATASETS, ClassRecord
from grounding_jax.evaluation.run import find_task
from grounding_jax.files import pictures
from gsva_jax.evaluation.tasks import TASKS
from tests.command_line import failed
from tests.small_datasets import COCO_STUFF, MAPILLARY, REFER, write_all

CLASS_DATASETS = (*SEMANTIC_DATASETS, *PART_DATASETS)
REFER_WRITTEN = [f"{dataset}|{split}" for dataset, (_, _, other) in REFER.items() for split in ("train", other)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree of every layout, and its truth."""
    root = tmp_path_factory.mktemp("datasets")
    return root, write_all(root, seed=0)


@pytest.fixture
def copy(tree, tmp_path):
    """A copy of the tree, to be damaged."""
    shutil.copytree(tree[0], tmp_path / "tree")
    return tmp_path / "tree"


def open_all(tree, name):
    """A source, its records, and the truth about them; what all sources have in common is checked."""
    root, truth = tree
    source = open_dataset(root, name)
    assert source.name == name and len(source) == len(truth[name])
    records = [source[index] for index in range(len(source))]
    for record, true in zip(records, truth[name], strict=True):
        assert str(record.image) == str(root / true.image)
        assert pictures.open_picture(record.image).shape == (*true.size, 3)
    return source, records, truth[name]


def test_the_tree_has_every_dataset(tree):
    assert set(tree[1]) <= set(KNOWN_DATASETS)
    assert {name.partition("|")[0] for name in tree[1]} == {name.partition("|")[0] for name in KNOWN_DATASETS}


@pytest.mark.parametrize("name", REFER_WRITTEN)
def test_referring_expressions(tree, name):
    _, records, truth = open_all(tree, name)
    for record, true in zip(records, truth, strict=True):
        assert (record.raw_expressions, record.size) == (true.texts, true.size)
        np.testing.assert_array_equal(record.masks, true.masks)
        np.testing.assert_array_equal(record.rejected, ~true.masks.any((1, 2)))


@pytest.mark.parametrize("name", REASONSEG_DATASETS)
def test_reasonseg(tree, name):
    _, records, truth = open_all(tree, name)
    for record, true in zip(records, truth, strict=True):
        assert (record.raw_expressions, record.size) == (true.texts, true.size)
        np.testing.assert_array_equal(record.masks, true.masks)
        np.testing.assert_array_equal(record.ignore, true.ignore)
        assert record.explanation == true.explanation


def test_explanations_belong_to_pictures_of_train(tree, golden):
    joined = open_dataset(tree[0], "ReasonSeg|val_train")
    explanations = {record.image_id: record.explanation for record in joined}
    assert explanations == {"c": None, "a": None, "b": "It’s the café."}
    released = open_dataset(golden / "gsva" / "data", "ReasonSeg|train")
    assert [record.explanation for record in released] == [None, "Because the man is standing."]


@pytest.mark.parametrize("name", CLASS_DATASETS)
def test_classes_and_parts(tree, name):
    _, records, truth = open_all(tree, name)
    for record, true in zip(records, truth, strict=True):
        assert isinstance(record, ClassRecord)
        assert (record.wordings, record.size) == (true.texts, true.size)
        every = range(len(true.texts))
        masks = record.masks_of(every)
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks, true.masks)
        np.testing.assert_array_equal(record.masks_of(every[::-2]), true.masks[::-2])
        assert record.masks_of([]).shape == (0, *true.size)
    assert len(records[0].wordings) > 2 and records[2].wordings == ()  # there, everything is ignored


@pytest.mark.parametrize("name", SEMANTIC_DATASETS)
def test_no_label_map_is_read_before_it_is_needed(copy, name):
    for file in copy.rglob("*.png"):
        file.write_bytes(b"")
    source = open_dataset(copy, name)
    assert [source[index].image_id for index in range(3)] == [f"{number:012}" for number in range(3)]


def test_names_of_classes(tree):
    ade20k, coco_stuff, mapillary = (
        open_dataset(tree[0], name).classes for name in ("ade20k|training", "cocostuff|train2017", "mapillary|training")
    )
    assert ade20k == ADE20K_CLASSES and len(set(ade20k)) == 150
    assert ade20k[4] == "tree" and ade20k[12] == "person" and ade20k[44] == "chest of drawers" and ade20k[149] == "flag"
    assert coco_stuff == COCO_STUFF_CLASSES and len(set(coco_stuff)) == 182
    assert sum("-" in name for name in coco_stuff) == 28
    # Known numbers of COCO: 90 categories of things (person is 1), then 91 of stuff.
    assert coco_stuff[0] == "person" and coco_stuff[17 - 1] == "cat" and coco_stuff[90 - 1] == "toothbrush"
    assert coco_stuff[92 - 1] == "banner" and coco_stuff[157 - 1] == "sky" and coco_stuff[182 - 1] == "wood"
    assert all("-" in coco_stuff[value] for value in (95, 171) if COCO_STUFF[value] is None)
    assert mapillary == tuple(name for name in MAPILLARY.values() if name)


def test_coco_pictures_without_a_label_map_are_of_other_datasets(tree):
    root, truth = tree
    assert len(list((root / "coco" / "train2017").glob("*.jpg"))) > len(truth["cocostuff|train2017"])


@pytest.mark.parametrize(
    ("category", "wordings"),
    [
        ("bench", ("bench",)),
        ("car_(automobile)", ("car",)),
        ("dog:leg", ("dog leg", "the leg of the dog")),
        (" mouse_(computer_equipment):wheel_(part) ", ("mouse wheel", "the wheel of the mouse")),
    ],
)
def test_wordings_of_parts(category, wordings):
    assert part_wordings(category) == wordings


def test_bytes_and_text_counts_give_the_same_mask(tree):
    record = open_dataset(tree[0], "paco_lvis|train")[0]
    text = record.segmentations[2]
    as_bytes = {**text, "counts": text["counts"].encode()}
    record_of_bytes = type(record)(record.image, 1, record.size, record.wordings[2:3], (as_bytes,))
    np.testing.assert_array_equal(record_of_bytes.masks_of([0]), record.masks_of([2]))


def test_conversations(tree):
    _, records, truth = open_all(tree, "llava_instruct_150k")
    assert [record.turns for record in records] == [list(true.texts) for true in truth]


def test_conversations_of_the_release(golden):
    (record,) = open_dataset(golden / "gsva" / "data", "llava_instruct_150k")
    assert [turn["from"] for turn in record.turns] == ["human", "gpt", "human", "gpt"]
    assert record.turns[0]["value"] == "What is the man holding?\n<image>"
    assert pictures.open_picture(record.image).ndim == 3


def test_what_can_be_evaluated(tree, capsys):
    names = {*REFER_DATASETS, *REASONSEG_DATASETS, "ade20k|validation", "ReasonSeg|", OWN_DATA, *NARRATIVE_DATASETS}
    assert set(TASKS) == names
    assert find_task(TASKS, "ReasonSeg|train_val", "guided") is TASKS["ReasonSeg|val"]
    with pytest.raises(ValueError, match=r"'ade20k\|training' can't be evaluated; .* grefcoco\|unc\|train/val"):
        find_task(TASKS, "ade20k|training", "official")
    words = ["evaluate", "--data", tree[0], "--protocol", "official", "--dataset", "paco_lvis|train"]
    assert "'paco_lvis|train' can't be evaluated" in failed(capsys, *words)


def test_unknown_names_list_the_known_ones(tree):
    for name in ("ade20k|train", "paco_lvis", "llava_instruct_150k|train"):
        with pytest.raises(ValueError, match=r"unknown dataset .*ade20k\|training/val.*pascal_part\|train, llava_in"):
            open_dataset(tree[0], name)


@pytest.mark.parametrize("name", [*CLASS_DATASETS, "llava_instruct_150k", "ReasonSeg|train"])
def test_missing_datasets_are_named(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name.split("|")[0].split("_")[0]):
        open_dataset(tmp_path, name)


def test_missing_files_are_named(copy):
    (copy / "ade20k/annotations/training/000000000001.png").unlink()
    record = open_dataset(copy, "ade20k|training")[1]
    with pytest.raises(FileNotFoundError, match=r"annotations/training/000000000001\.png"):
        _ = record.wordings
    (copy / "coco/train2017/000000000001.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"coco/train2017/000000000001\.jpg"):
        pictures.open_picture(open_dataset(copy, "cocostuff|train2017")[1].image)
    (copy / "mapillary/config_v2.0.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"mapillary/config_v2\.0\.json"):
        open_dataset(copy, "mapillary|training")
    (copy / "reason_seg/ReasonSeg/explanatory/train.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"explanatory/train\.json"):
        open_dataset(copy, "ReasonSeg|train")
    assert len(open_dataset(copy, "ReasonSeg|val")) == 1


def test_damaged_label_maps_are_named(copy):
    file = copy / "ade20k/annotations/training/000000000000.png"

    def refused(error):
        with pytest.raises(ValueError, match=error):
            _ = open_dataset(copy, "ade20k|training")[0].wordings

    whole = file.read_bytes()
    file.write_bytes(whole[:-40])
    refused(r"cannot read the label map .*000000000000\.png")
    file.write_bytes(b"not a picture")
    refused(r"cannot read the label map .*000000000000\.png.*not a format")
    Image.new("RGB", (56, 40)).save(file)
    refused(r"label map .*000000000000\.png': it has mode RGB, not one 8-bit channel")
    Image.fromarray(np.full((40, 56), 151, np.uint8)).save(file)
    refused(r"000000000000\.png has the value 151, which means no class")


def change(file, key, value):
    """Sets one key of a JSON file."""
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))


def test_damaged_annotations_are_named(copy):
    file = copy / "vlpart/pascal_part/train.json"
    whole = file.read_text()
    annotation = {"id": 77, "image_id": 10, "category_id": 1, "segmentation": []}
    for key, value, error in [
        ("annotations", [{**annotation, "image_id": 5}], r"train\.json lacks image 5, which annotation 77"),
        ("annotations", [{**annotation, "category_id": 9}], r"train\.json lacks category 9, which annotation 77"),
        ("annotations", [{"id": 1}], r"train\.json at \$\.annotations\[0\]: .* field `segmentation`"),
        ("categories", [{"id": 1, "name": "a:b:c"}], r"train\.json: .*thing or thing:part, got 'a:b:c'"),
        ("images", None, r"train\.json at \$\.images: expected `array`, got `null`"),
    ]:
        change(file, key, value)
        with pytest.raises(ValueError, match=error):
            open_dataset(copy, "pascal_part|train")
        file.write_text(whole)
    change(file, "annotations", [{**annotation, "segmentation": {"size": [3, 4], "counts": [12]}}])
    with pytest.raises(ValueError, match=r"the mask of 'dog leg' in .*000000000010\.jpg is damaged: .*do not fit"):
        open_dataset(copy, "pascal_part|train")[0].masks_of([0])
    change(copy / "mapillary/config_v2.0.json", "labels", [{"name": "animal--bird"}])
    with pytest.raises(ValueError, match=r"config_v2\.0\.json at \$\.labels\[0\]: .* field `readable`"):
        open_dataset(copy, "mapillary|training")


@pytest.mark.parametrize(
    "item",
    [
        "text",
        {"conversations": [{"from": "human", "value": "?"}]},
        {"image": "7.jpg", "conversations": []},
        {"image": "7.jpg", "conversations": [{"from": "human"}]},
        {"image": "7.jpg", "conversations": [{"from": "dog", "value": "?"}]},
        {"image": "7.jpg", "conversations": [{"from": "human", "value": None}]},
    ],
)
def test_damaged_conversations_are_named(tmp_path, item):
    file = tmp_path / "llava_dataset" / "llava_instruct_150k.json"
    file.parent.mkdir()
    whole = {"image": "7.jpg", "conversations": [{"from": "human", "value": "?"}]}
    file.write_text(json.dumps([whole, item]))
    with pytest.raises(ValueError, match=r"llava_instruct_150k\.json at \$\[1\]"):
        open_dataset(tmp_path, "llava_instruct_150k")
    file.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match=r"llava_instruct_150k\.json at \$: expected `array`, got `object`"):
        open_dataset(tmp_path, "llava_instruct_150k")


@pytest.mark.parametrize(
    ("items", "error"),
    [
        ([{"image": "b.jpg"}], r"at \$\[0\]: object missing required field `outputs`"),
        ([{"image": "b.jpg", "outputs": None}], r"at \$\[0\].outputs: expected `str`, got `null`"),
        (None, r"at \$: expected `array`, got `null`"),
    ],
)
def test_damaged_explanations_are_named(copy, items, error):
    (copy / "reason_seg/ReasonSeg/explanatory/train.json").write_text(json.dumps(items))
    with pytest.raises(ValueError, match=rf"explanatory/train\.json {error}"):
        open_dataset(copy, "ReasonSeg|train")


@pytest.mark.parametrize("name", [*CLASS_DATASETS, "llava_instruct_150k"])
def test_sources_and_records_survive_pickling(tree, name):
    source = pickle.loads(pickle.dumps(open_dataset(tree[0], name)))
    assert pickle.loads(pickle.dumps(source[0])).image == source[0].image
