"""Scenes keep the rules that make them worth training and testing on, and survive being written and read."""

import collections
import json
import re

import numpy as np
import pytest
from PIL import Image

from grounding_jax.data.scenes import cutouts
from grounding_jax.data.scenes.backgrounds import PHOTOGRAPHS, SPLITS
from grounding_jax.data.scenes.compose import SceneSource, scene
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import TEMPLATES, vocabulary_texts
from grounding_jax.data.scenes.layout import PICTURES
from grounding_jax.data.scenes.write import write_photo_scene, write_scenes
from grounding_jax.files.masks import decode_mask

pytestmark = pytest.mark.quick

SIZE = 96
NUM = 300


@pytest.fixture(scope="module")
def scenes():
    return list(SceneSource(0, "train", NUM, SIZE))


@pytest.fixture(scope="module")
def expressions(scenes):
    return [(one, expression) for one in scenes for expression in one.expressions]


def _template_and_kind(text):
    *words, noun = text.split()
    return " ".join(words), next(kind.noun for kind in KINDS if noun in (kind.noun, kind.plural))


def test_kinds_are_many_and_words_are_unique():
    words = [word for kind in KINDS for word in (kind.noun, kind.plural)]
    assert len(KINDS) >= 40
    assert len(set(words)) == len(words)


def test_vocabulary_has_every_word(expressions):
    used = {word for _, expression in expressions for word in expression.text.split()}
    vocabulary = vocabulary_texts()
    assert used <= set(vocabulary)
    assert len(vocabulary) == len(set(vocabulary))


def test_splits_share_no_photograph():
    files = [photograph.file for split in SPLITS for photograph in PHOTOGRAPHS[split]]
    assert len(set(files)) == len(files)


def test_pictures_and_masks(scenes):
    for one in scenes:
        assert one.image.shape == (SIZE, SIZE, 3) and one.image.dtype == np.uint8
        masks = np.stack([thing.mask for thing in one.objects])
        assert masks.dtype == bool and masks.sum(0).max() == 1  # what is visible belongs to one object
        for thing in one.objects:
            rows, columns = np.nonzero(thing.mask)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert thing.area == thing.mask.sum()


def test_objects_keep_the_rules(scenes):
    counts = collections.Counter(len(one.objects) for one in scenes)
    areas = np.array([thing.mask.sum() for one in scenes for thing in one.objects]) / SIZE**2
    visible = np.array([thing.visible for one in scenes for thing in one.objects])
    repeated = np.mean([len({thing.kind for thing in one.objects}) < len(one.objects) for one in scenes])
    assert set(counts) == set(range(3, 9)) and min(counts.values()) >= NUM / 12
    assert areas.min() >= 0.01 and areas.max() <= 0.20
    assert np.quantile(areas, 0.1) < 0.03 and np.quantile(areas, 0.9) > 0.10
    assert visible.min() >= 0.5 and (visible < 0.95).mean() > 0.3
    assert 0.6 <= repeated <= 0.85


def test_expressions_keep_the_rules(scenes, expressions):
    for one in scenes:
        texts = [expression.text for expression in one.expressions]
        assert 3 <= len(texts) <= 6 and len(set(texts)) == len(texts)
        assert any(expression.objects for expression in one.expressions)
    families = collections.Counter(e.absent_family or e.family for _, e in expressions)
    absent = np.mean([e.family == "absent" for _, e in expressions])
    assert (families["place"] + families["size"]) / len(expressions) >= 0.35
    assert families["size"] / len(expressions) >= 0.15
    assert 0.25 <= absent <= 0.35


def test_expressions_mean_what_they_say(expressions):
    """Recomputed from the masks: the right objects, gaps of 8% of the side, area ratios of 1.6."""
    for one, expression in expressions:
        template, kind = _template_and_kind(expression.text)
        members = [k for k, thing in enumerate(one.objects) if thing.kind == kind]
        if expression.family == "absent":
            assert not members and not expression.objects and expression.absent_family in TEMPLATES
            continue
        assert expression.absent_family is None
        if expression.family in ("name", "all"):
            assert set(expression.objects) == set(members)
            assert len(members) == 1 or expression.family == "all"
            continue
        values = [_measure(template.split()[1], one.objects[k].mask) for k in members]
        (target,), order = expression.objects, np.argsort(values)
        assert len(members) >= 2 and members[order[0]] == target
        first, second = values[order[0]], values[order[1]]
        if expression.family == "place":
            assert second - first >= 0.08 * SIZE
        else:
            assert max(first / second, second / first) >= 1.6


def _measure(word, mask):
    """A number that is least for the object that the word means."""
    rows, columns = np.nonzero(mask)
    x, y = (columns.min() + columns.max() + 1) / 2, (rows.min() + rows.max() + 1) / 2
    area = mask.sum()
    return {"left": x, "right": -x, "top": y, "bottom": -y, "smallest": area, "largest": -area}[word]


def test_wording_does_not_tell_what_is_absent(scenes):
    """The best guess from the template, the noun, or how often nouns are used is close to chance."""
    rows = []
    for one in scenes:
        keys = [_template_and_kind(expression.text) for expression in one.expressions]
        uses = collections.Counter(kind for _, kind in keys)
        for (template, kind), expression in zip(keys, one.expressions, strict=True):
            features = {"template": template, "kind": kind, "uses": uses[kind], "nouns": len(uses)}
            rows.append((features, expression.family == "absent"))
    half = len(rows) // 2
    for feature in rows[0][0]:
        learned = collections.defaultdict(list)
        for features, absent in rows[:half]:
            learned[features[feature]].append(absent)
        # Guess absent where it is more frequent than overall: the best a text-only baseline can do with it.
        overall = np.mean([absent for _, absent in rows[:half]])
        guess = {value: np.mean(seen) > overall for value, seen in learned.items()}
        tested = [(guess.get(features[feature], False), absent) for features, absent in rows[half:]]
        n_acc = np.mean([g for g, absent in tested if absent])
        t_acc = np.mean([not g for g, absent in tested if not absent])
        assert (n_acc + t_acc) / 2 <= 0.56, feature


def test_absence_is_equally_frequent_in_all_templates(expressions):
    seen = collections.defaultdict(list)
    for _, expression in expressions:
        seen[expression.absent_family or expression.family].append(expression.family == "absent")
    assert all(0.2 <= np.mean(values) <= 0.4 for values in seen.values())


def test_scene_is_a_function_of_its_arguments():
    one, again = scene(3, "val", 5, SIZE), SceneSource(3, "val", 6, SIZE)[5]
    np.testing.assert_array_equal(one.image, again.image)
    assert one.expressions == again.expressions
    for other in (scene(4, "val", 5, SIZE), scene(3, "test", 5, SIZE), scene(3, "val", 4, SIZE)):
        assert (other.image != one.image).any()


def test_source_ends_where_it_says():
    source = SceneSource(0, "val", 2, SIZE)
    assert len(source) == 2 and len(list(source)) == 2
    with pytest.raises(IndexError, match="scene 2 of a source of 2"):
        source[2]


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="split 'testA'.*train, val, test"):
        scene(0, "testA", 0, SIZE)


def _read(root):
    folder = root / "refer_seg" / "grefcoco"
    return [json.loads((folder / name).read_text()) for name in ("grefs(unc).json", "instances.json")]


def _decode(segmentation):
    return decode_mask(segmentation, segmentation["size"])


def test_written_scenes_read_back_the_same(tmp_path):
    write_scenes(tmp_path, 6, 0, "val", size=SIZE)
    refs, instances = _read(tmp_path)
    annotations = {annotation["id"]: annotation for annotation in instances["annotations"]}
    nouns = {category["id"]: category["name"] for category in instances["categories"]}
    assert len(annotations) == len(instances["annotations"]) and len(instances["images"]) == 6
    for index, image in enumerate(instances["images"]):
        one = scene(0, "val", index, SIZE)
        decoded = np.asarray(Image.open(tmp_path / PICTURES / image["file_name"]), float)
        assert decoded.shape == one.image.shape and np.abs(decoded - one.image).mean() < 6
        own = [annotation for annotation in instances["annotations"] if annotation["image_id"] == image["id"]]
        for annotation, thing in zip(own, one.objects, strict=True):
            np.testing.assert_array_equal(_decode(annotation["segmentation"]), thing.mask)
            assert nouns[annotation["category_id"]] == thing.kind and annotation["area"] == thing.area
        own = [ref for ref in refs if ref["image_id"] == image["id"]]
        for ref, expression in zip(own, one.expressions, strict=True):
            assert ref["sentences"][0]["sent"] == expression.text and ref["family"] == expression.family
            assert ref["split"] == "val" and ref["no_target"] == (ref["ann_id"] == [-1])
            masks = [_decode(annotations[k]["segmentation"]) for k in ref["ann_id"] if k != -1]
            assert len(masks) == len(expression.objects)
            for mask, k in zip(masks, expression.objects, strict=True):
                np.testing.assert_array_equal(mask, one.objects[k].mask)


def test_splits_share_a_folder_and_replace_themselves(tmp_path):
    write_scenes(tmp_path, 3, 0, "test", size=SIZE)
    write_scenes(tmp_path, 4, 0, "val", size=SIZE)
    write_scenes(tmp_path, 2, 1, "val", size=SIZE)
    refs, instances = _read(tmp_path)
    files = sorted(image["file_name"] for image in instances["images"])
    assert {ref["split"] for ref in refs} == {"val", "testA"}
    assert len(set(files)) == 5 and {ref["file_name"] for ref in refs} == set(files)
    assert sorted(path.name for path in (tmp_path / PICTURES).iterdir()) == files
    other = tmp_path / "other"
    write_scenes(other, 2, 1, "val", size=SIZE)
    write_scenes(other, 3, 0, "test", size=SIZE)
    assert _read(other) == [refs, instances]


def test_photo_scene_is_written(tmp_path):
    write_photo_scene(tmp_path, "coffee.png", 5)
    content = json.loads((tmp_path / "photo_scene.json").read_text())
    picture = Image.open(tmp_path / content["file_name"])
    assert picture.size == (content["width"], content["height"]) == (600, 400)
    for expression in content["expressions"]:
        assert _decode(expression["segmentation"]).any() != expression["rejected"]


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=re.escape(f"can't write scenes to {tmp_path / 'file' / 'out'}: ")):
        write_scenes(tmp_path / "file" / "out", 1, 0, "val", size=SIZE)


@pytest.mark.parametrize("num, seed, size", [(0, 0, SIZE), (1, -1, SIZE), (1, 0, 8), (1, 0, 2049)])
def test_bad_numbers_are_named(tmp_path, num, seed, size):
    with pytest.raises(ValueError, match=f"num {num}, seed {seed}, size {size}: "):
        write_scenes(tmp_path, num, seed, "val", size=size)


def test_other_data_is_not_overwritten(tmp_path, golden):
    folder = tmp_path / "refer_seg" / "grefcoco"
    folder.mkdir(parents=True)
    for name in ("grefs(unc).json", "instances.json"):
        (folder / name).write_text((golden / "gsva" / "data" / "refer_seg" / "grefcoco" / name).read_text())
    with pytest.raises(ValueError, match="has files of something else"):
        write_scenes(tmp_path, 1, 0, "val", size=SIZE)


def test_pictures_of_coco_stay(tmp_path):
    """RefCOCO's pictures lie in the same folder, under names of the same form."""
    mine = tmp_path / PICTURES / "COCO_train2014_000000000009.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("a picture")
    write_scenes(tmp_path, 1, 0, "train", size=SIZE)
    assert mine.read_text() == "a picture" and len(list(mine.parent.iterdir())) == 2


def test_missing_npm_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cutouts.MissingCutouts, match="npm is not installed") as caught:
        cutouts.fetch_cutouts(tmp_path)
    assert "\n" not in str(caught.value)
