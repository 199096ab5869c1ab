"""Sources of panoptic segmentation, narratives and entities, compared with the arrays that small trees come from."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from grounding_jax.data.check import check_dataset
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import read_masks
from grounding_jax.data.sources.class_names import COCO_STUFF_CLASSES
from grounding_jax.data.sources.narratives import NARRATIVE_DATASETS, find_phrases
from grounding_jax.data.sources.panoptic import PanopticMap, PanopticSource, write_panoptic
from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC, Category
from grounding_jax.data.sources.registry import ENTITY_DATASETS, KNOWN_DATASETS
from grounding_jax.evaluation.run import find_task
from grounding_jax.files import pictures
from gsva_jax.evaluation.tasks import TASKS
from tests.command_line import failed
from tests.small_datasets import box_mask, write_json
from tests.small_panoptic import (
    CATEGORIES,
    NARRATIVES,
    PHRASES,
    SPOKEN,
    write_entityseg,
    write_narratives,
    write_panoptic_tree,
)

pytestmark = pytest.mark.quick

PANOPTIC = "coco/annotations/panoptic_val2017.json"
PNG = "coco/annotations/png_coco_val2017.json"
ENTITYSEG = "entityseg/annotations/entity_segmentation/entityv2_010203_entity_val.json"
DATASETS = ("panoptic|val2017", "coco_entity|val2017", "png|val2017", "entityseg|val", "entityseg|train_lr")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree of every layout, and its panoptic truth."""
    root = tmp_path_factory.mktemp("datasets")
    write_narratives(root)
    for split in ("val", "train_lr"):
        write_entityseg(root, split)
    return root, write_panoptic_tree(root)


@pytest.fixture
def copy(tree, tmp_path):
    """A copy of the tree, to be damaged."""
    shutil.copytree(tree[0], tmp_path / "tree")
    return tmp_path / "tree"


def change(file, function):
    """Rewrites a json after a change in place."""
    content = json.loads(file.read_text())
    function(content)
    write_json(file, content)


def test_table_of_categories():
    assert len(COCO_PANOPTIC) == 133 and sum(category.isthing for category in COCO_PANOPTIC) == 80
    ids = [category.id for category in COCO_PANOPTIC]
    assert ids == sorted(set(ids)) and {category.id for category in COCO_PANOPTIC if category.isthing} <= set(range(91))
    assert {category.id for category in COCO_PANOPTIC if not category.isthing} <= set(range(92, 201))
    # Up to 182 the numbers are those of COCO-Stuff; what follows was merged from several of its kinds.
    for category in COCO_PANOPTIC:
        if category.id <= 182:
            assert category.name == COCO_STUFF_CLASSES[category.id - 1]
    assert [category.id for category in COCO_PANOPTIC if category.name.endswith("-merged")] == list(range(184, 201))


def test_spoken_names():
    spoken = {category.id: category.spoken for category in COCO_PANOPTIC}
    assert len(set(spoken.values())) == 133 and not any("-" in name for name in spoken.values())
    assert {number: spoken[number] for number in SPOKEN} == SPOKEN
    assert spoken[90] == "toothbrush" and spoken[112] == "door" and spoken[180] == "window blind"
    assert spoken[118] == "wood floor" and spoken[190] == "floor" and spoken[199] == "wall" and spoken[200] == "rug"
    for category in COCO_PANOPTIC:  # a name says the same words, in another order and without the suffixes
        words = set(category.name.replace("-", " ").split()) - {"merged", "other", "stuff"}
        assert set(category.spoken.split()) == words or category.name == "playingfield"
    assert Category(3, "wall-clock", True).spoken == "wall-clock"  # of other datasets


def test_panoptic(tree):
    root, cuts = tree
    source = open_dataset(root, "panoptic|val2017")
    assert source.name == "panoptic|val2017" and len(source) == 3
    assert source.categories == tuple(Category(c["id"], c["name"], bool(c["isthing"])) for c in CATEGORIES)
    for record, (image_id, cut) in zip(source, sorted(cuts.items()), strict=False):
        assert record.image == root / cut.image and record.label_file == root / cut.label_file
        assert (record.image_id, record.size) == (image_id, cut.size)
        assert pictures.open_picture(record.image).shape[:2] == cut.size
        np.testing.assert_array_equal(record.id_map, cut.ids)
        names = {category["id"]: category for category in CATEGORIES}
        for described, segment in zip(record.segments, cut.segments, strict=True):
            category = names[segment["category_id"]]
            assert described == {**segment, "name": category["name"], "isthing": bool(category["isthing"])}
        masks = np.array([cut.ids == segment["id"] for segment in cut.entities], bool).reshape(-1, *cut.size)
        assert record.wordings == tuple((SPOKEN[segment["category_id"]],) for segment in cut.entities)
        np.testing.assert_array_equal(record.masks_of(range(len(masks))), masks)
        entities = record.entities
        np.testing.assert_array_equal(entities.masks, masks)
        assert entities.ids == tuple(segment["id"] for segment in cut.entities) and entities.scores is None
        if cut.entities:
            assert entities.category_ids == tuple(segment["category_id"] for segment in cut.entities)
            assert entities.names == tuple(names[number]["name"] for number in entities.category_ids)
            file = read_masks(root / PANOPTIC, cut.size, name=record.image.name)
            assert file.ids == entities.ids and file.names == entities.names
            np.testing.assert_array_equal(file.masks, masks)


def test_coco_entity(tree):
    root, cuts = tree
    for record, (_, cut) in zip(open_dataset(root, "coco_entity|val2017"), sorted(cuts.items()), strict=False):
        ids = [segment["id"] for segment in cut.entities]
        entities = record.entities
        assert entities.ids == tuple(ids) and entities.names == tuple(map(str, ids))
        assert entities.category_ids is None and record.wordings == tuple((f"entity {number}",) for number in ids)
        assert entities.masks.shape == (len(ids), *cut.size)
        for number, mask, area in zip(ids, entities.masks, record.areas, strict=True):
            rows, columns = np.nonzero(cut.ids == number)
            np.testing.assert_array_equal(mask, cut.ids == number)
            assert area == (rows.max() - rows.min()) * (columns.max() - columns.min())


def test_nothing_is_read_before_it_is_needed(copy):
    for file in (*copy.rglob("*.png"), *copy.rglob("*.jpg")):
        file.write_bytes(b"")
    for name in DATASETS:
        assert [record.size for record in open_dataset(copy, name)]
    with pytest.raises(
        ValueError,
        match=r"cannot read the PNG of segments '.*/000000000139\.png': it is empty",
    ):
        _ = open_dataset(copy, "png|val2017")[0].masks


def test_cocos_own_archive(copy):
    folder = copy / "coco" / "annotations"
    (folder / "panoptic_segmentation" / "val2017").rename(folder / "panoptic_val2017")
    assert open_dataset(copy, "panoptic|val2017")[0].id_map.any()
    (folder / "panoptic_val2017").rename(folder / "elsewhere")
    missing = r"the folder with the PNGs of .*: .*/panoptic_val2017 or .*/panoptic_segmentation/val2017"
    with pytest.raises(FileNotFoundError, match=missing):
        open_dataset(copy, "panoptic|val2017")


def test_narratives(tree):
    root, cuts = tree
    source = open_dataset(root, "png|val2017")
    assert len(source) == 3 and source.name == "png|val2017"
    for record, narrative, phrases in zip(source, NARRATIVES, PHRASES, strict=False):
        cut = cuts[int(narrative["image_id"])]
        assert record.image == root / cut.image and record.image_id == int(narrative["image_id"])
        assert record.caption == narrative["caption"]
        facts = (record.raw_expressions, record.spans, record.segment_ids, record.things)
        assert list(zip(*facts, strict=True)) == phrases
        assert record.grounded == tuple(bool(ids) for _, _, ids, _ in phrases)
        assert record.plural == tuple(len(ids) > 1 for _, _, ids, _ in phrases)
        expected = [sum((cut.ids == number for number in ids), np.zeros(cut.size, bool)) for _, _, ids, _ in phrases]
        assert record.masks.dtype == bool and record.masks.shape == (len(phrases), *cut.size)
        np.testing.assert_array_equal(record.masks, np.array(expected, bool).reshape(-1, *cut.size))
        np.testing.assert_array_equal(record.masks_of([0]) if phrases else record.masks, record.masks[:1])
        assert record.entities.ids == tuple(segment["id"] for segment in cut.entities)
    assert source[0].caption[slice(*source[0].spans[0])] == "two people"


@pytest.mark.parametrize(
    ("caption", "parts", "expected"),
    [
        ("A cat, and cats.", [("A cat", 1), (", and", 0), ("cats", 1)], ["A cat", "cats"]),
        ("  A  cat isn't\nhere", [("a cat", 1), ("is", 0), ("n't", 1), ("here", 1)], ["A  cat", "n't", "here"]),
        ("the scatter of a cat", [("this", 0), ("cat", 1)], ["cat"]),  # whole words, where something was left out
        ("a dog and a dog", [("a dog", 1), ("and", 0), ("a dog", 1), ("a dog", 1)], ["a dog", "a dog", None]),
        ("one (1) two+", [("one", 1), ("(1)", 1), ("TWO+", 1)], ["one", "(1)", "two+"]),
        ("words", [("", 1), ("words", 1)], [None, "words"]),
    ],
)
def test_phrases_are_found(caption, parts, expected):
    spans = find_phrases(caption, parts)
    assert [span and caption[slice(*span)] for span in spans] == expected
    ends = [0, *(end for span in filter(None, spans) for end in span)]
    assert ends == sorted(ends), "one after the other"


@pytest.mark.parametrize("name", ["entityseg|val", "entityseg|train_lr"])
def test_entityseg(tree, name, tmp_path):
    root = tree[0]
    boxes = write_entityseg(tmp_path)
    source = open_dataset(root, name)
    pictures_folder = root / "entityseg" / ("images_lr" if name.endswith("_lr") else "images")
    assert [record.image_id for record in source] == [2, 4, 9]
    for record in source:
        file = str(record.image.relative_to(pictures_folder))
        assert record.image.exists()
        expected = np.array([box_mask(record.size, box) for box in boxes[file]], bool).reshape(-1, *record.size)
        ids = tuple(10 * record.image_id + i for i in range(len(expected)))
        entities = record.entities
        np.testing.assert_array_equal(entities.masks, expected)
        assert entities.ids == record.ids == ids and entities.names == tuple(map(str, ids))
        assert entities.category_ids is None and entities.scores is None
        assert record.wordings == tuple((f"entity {number}",) for number in ids)
        assert record.areas == tuple(1.5 + i for i in range(len(expected)))
        if ids:  # the annotation file is a source of masks, too
            found = read_masks(root / ENTITYSEG, record.size, image_id=record.image_id)
            np.testing.assert_array_equal(found.masks, expected)
            assert found.names == ("woman",) * 4


def test_checks(tree):
    """`data check` counts pictures and what is in them."""
    counted = {name: (3, 5) for name in ("panoptic|val2017", "coco_entity|val2017")}
    counted |= {"png|val2017": (2, 7), "entityseg|val": (3, 8), "entityseg|train_lr": (3, 8)}
    for name in DATASETS:
        checked = check_dataset(tree[0], name, lambda *_: None)
        assert (checked.problem, checked.pictures, checked.expressions) == (None, *counted[name])


def test_names_of_datasets(tree, capsys):
    assert not set(ENTITY_DATASETS) & set(KNOWN_DATASETS)
    assert {name.partition("|")[0] for name in ENTITY_DATASETS} == {name.partition("|")[0] for name in DATASETS}
    for name in set(ENTITY_DATASETS) - set(NARRATIVE_DATASETS):  # these GSVA answers, too
        with pytest.raises(ValueError, match=r"' can't be evaluated; the datasets that can are grefcoco\|unc\|train"):
            find_task(TASKS, name, "official")
    words = ["evaluate", "--data", tree[0], "--protocol", "official", "--dataset", "panoptic|val2017"]
    assert failed(capsys, *words).startswith(
        "'panoptic|val2017' can't be evaluated; the datasets that can are grefcoco|"
    )
    with pytest.raises(ValueError, match=r"unknown dataset 'png\|val'; .*png\|train2017/val2017, entityseg\|train/"):
        open_dataset(tree[0], "png|val")
    for name in DATASETS:
        kind = type(open_dataset(tree[0], name))
        with pytest.raises(ValueError, match=rf"unknown dataset 'coco'; there are {name.partition('|')[0]}\|train"):
            kind(tree[0], "coco")


def drop_image(content):
    del content["images"][0]  # the last picture


def drop_annotation(content):
    del content["annotations"][1]  # of picture 139


def drop_category(content):
    del content["categories"][2]


def rename(content):
    del content["annotations"][0]["file_name"]


def other_size(content):
    content["images"][1]["height"] = 21


def other_segment(content):
    content["annotations"][2]["segments_info"][0]["id"] = 4


@pytest.mark.parametrize(
    ("change_of", "name", "problem"),
    [
        (drop_image, "panoptic|val2017", r"panoptic_val2017\.json lacks image 632, which an annotation belongs to"),
        (drop_annotation, "png|val2017", r"panoptic_val2017\.json lacks image 139, which a caption of 'png\|val2017'"),
        (drop_category, "coco_entity|val2017", r"val2017\.json lacks category 171, which a segment of image 139 has"),
        (rename, "panoptic|val2017", r"panoptic_val2017\.json at \$\.annotations\[0\]: .* field `file_name`"),
        (other_size, "panoptic|val2017", r"285\.png has 20 x 12 pixels, but its annotation is for 21 x 12"),
        (other_segment, "panoptic|val2017", r"285\.png has the segment 65536, which the annotation of image 285 lacks"),
    ],
)
def test_damaged_panoptic_json(copy, change_of, name, problem):
    change(copy / PANOPTIC, change_of)
    with pytest.raises(ValueError, match=problem):
        _ = [record.entities for record in open_dataset(copy, name)]


def test_damaged_narratives_and_entities(copy):
    def cause(file, name, edit, problem):
        before = file.read_bytes()
        change(file, edit)
        with pytest.raises(ValueError, match=problem):
            list(open_dataset(copy, name))
        file.write_bytes(before)

    def unknown_segment(content):
        content[1]["segments"][1]["segment_ids"] = ["17"]

    def without_utterance(content):
        del content[1]["segments"][1]["utterance"]

    def without_caption(content):
        del content[1]["caption"]

    def other_image(content):
        content["annotations"][0]["image_id"] = 77

    def without_area(content):
        del content["annotations"][0]["area"]

    cause(copy / PNG, "png|val2017", unknown_segment, r"narrative 1 has segment 17, which image 285 lacks")
    cause(copy / PNG, "png|val2017", without_utterance, r"2017\.json at \$\[1\]\.segments\[1\]: .* field `utterance`")
    cause(copy / PNG, "png|val2017", without_caption, r"png_coco_val2017\.json at \$\[1\]: .* field `caption`")
    cause(copy / ENTITYSEG, "entityseg|val", other_image, r"_val\.json lacks image 77, which annotation 40 belongs to")
    cause(copy / ENTITYSEG, "entityseg|val", without_area, r"_val\.json at \$\.annotations\[0\]: .* field `area`")
    for file, name in ((PNG, "png|val2017"), (ENTITYSEG, "entityseg|val"), (PANOPTIC, "panoptic|val2017")):
        (copy / file).unlink()
        with pytest.raises(FileNotFoundError, match=rf"a file is missing: .*{file.rpartition('/')[2]}"):
            open_dataset(copy, name)


def test_cocos_numbers_must_have_cocos_names(copy):
    listed = [category._asdict() | {"isthing": int(category.isthing)} for category in COCO_PANOPTIC]
    change(copy / PANOPTIC, lambda content: content.update(categories=listed))
    assert open_dataset(copy, "panoptic|val2017").categories == COCO_PANOPTIC
    listed[-1]["name"] = "carpet"
    change(copy / PANOPTIC, lambda content: content.update(categories=listed))
    with pytest.raises(ValueError, match=r"has Category\(id=200, name='carpet', .*but COCO has .*name='rug-merged'"):
        open_dataset(copy, "panoptic|val2017")


def test_what_is_written_is_read(tmp_path):
    rng = np.random.default_rng(0)
    numbers, drawn = (5, 300, 70_000, 256**3 - 1), []
    for image_id, size in ((4, (9, 13)), (3, (13, 9))):
        ids = rng.choice([0, *numbers], size)
        drawn.append(
            PanopticMap(image_id, f"{image_id:012}.jpg", ids, dict(zip(numbers, (1, 200, 171, 1), strict=True)))
        )
    folder = tmp_path / "coco" / "annotations"
    write_panoptic(folder, "panoptic_train2017", drawn)
    content = json.loads((folder / "panoptic_train2017.json").read_text())
    assert content["images"][0] == {"id": 4, "file_name": "000000000004.jpg", "height": 9, "width": 13}
    assert [category["id"] for category in content["categories"]] == [category.id for category in COCO_PANOPTIC]
    for picture, annotation in zip(drawn, content["annotations"], strict=True):
        assert annotation["image_id"] == picture.image_id and annotation["file_name"] == f"{picture.image_id:012}.png"
        png = Image.open(folder / "panoptic_train2017" / annotation["file_name"])
        assert png.mode == "RGB"
        pixels = np.array(png).astype(int)
        np.testing.assert_array_equal(pixels[..., 0] + 256 * pixels[..., 1] + 65536 * pixels[..., 2], picture.ids)
        for segment in annotation["segments_info"]:
            rows, columns = np.nonzero(picture.ids == segment["id"])
            assert segment == {
                "id": segment["id"],
                "category_id": picture.category_ids[segment["id"]],
                "isthing": int(picture.category_ids[segment["id"]] == 1),
                "area": len(rows),
                "bbox": [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1],
                "iscrowd": 0,
            }
    source = PanopticSource(tmp_path, "panoptic|train2017")
    assert source.categories == COCO_PANOPTIC
    for record, picture in zip(source, drawn[::-1], strict=False):
        np.testing.assert_array_equal(record.id_map, picture.ids)
        assert record.entities.ids == numbers and record.entities.category_ids == (1, 200, 171, 1)
        read = read_masks(folder / "panoptic_train2017.json", image_id=picture.image_id)
        np.testing.assert_array_equal(read.masks, record.entities.masks)


@pytest.mark.parametrize(
    ("category_ids", "problem"),
    [
        ({1: 1}, r"the segmentation of 'a\.jpg' has the segment 2, which the list of categories of 'a\.jpg' lacks"),
        ({1: 1, 2: 1, 3: 1}, r"the list of categories of 'a\.jpg' has the segment 3, of which .* has no pixel"),
        ({1: 1, 2: 12}, r"the list of categories of 'a\.jpg' has 12, which is not the number of a category"),
    ],
)
def test_what_can_not_be_written(tmp_path, category_ids, problem):
    with pytest.raises(ValueError, match=problem):
        write_panoptic(tmp_path, "x", [PanopticMap(1, "a.jpg", np.array([[0, 1], [2, 2]]), category_ids)])


def test_pictures_of_one_name_are_not_written(tmp_path):
    same = [PanopticMap(1, f"a.{end}", np.array([[1]]), {1: 1}) for end in ("jpg", "png")]
    with pytest.raises(ValueError, match=r"two pictures would have the segments .*x/a\.png"):
        write_panoptic(tmp_path, "x", same)
