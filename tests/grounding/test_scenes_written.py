"""Narrated scenes that were written read back the same through the sources of the public datasets."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.layout import PICTURES
from grounding_jax.data.scenes.narrated import CATEGORIES, narrated_scene
from grounding_jax.data.scenes.write import write_scenes
from grounding_jax.data.scenes.write_narrated import write_narrated_scenes
from grounding_jax.data.sources.registry import find_dataset
from grounding_jax.files.masks import decode_mask
from grounding_jax.files.pictures import open_picture

pytestmark = pytest.mark.quick

SIZE = 64
NUM = 12
NAMES = ("panoptic|{}2017", "png|{}2017", "coco_entity|{}2017", "refcoco|unc|{}")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Scenes of the split test."""
    out = tmp_path_factory.mktemp("scenes")
    assert write_narrated_scenes(out, NUM, 3, "test", SIZE) == ("val2017",)
    return out


@pytest.fixture(scope="module")
def scenes():
    return [narrated_scene(3, "test", index, SIZE) for index in range(NUM)]


def _open(root, name):
    return find_dataset(name).open(root, name)


def _files(root):
    """The content of every file."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_entities_read_back_the_same(root, scenes):
    source = _open(root, "panoptic|val2017")
    assert source.categories == CATEGORIES and len(source) == NUM
    for record, one in zip(source, scenes, strict=True):
        assert np.abs(open_picture(record.image).astype(float) - one.image).mean() < 10  # a small JPEG
        masks = np.stack([entity.mask for entity in one.entities])
        np.testing.assert_array_equal(record.entities.masks, masks)
        assert record.wordings == tuple((entity.kind,) for entity in one.entities)
        assert [s["category_id"] for s in record.segments] == list(one.category_ids)
        assert [s["area"] for s in record.segments] == [entity.area for entity in one.entities]
    for record, one in zip(_open(root, "coco_entity|val2017"), scenes, strict=True):
        assert len(record.entities.masks) == len(one.entities)


def test_captions_read_back_the_same(root, scenes):
    source = _open(root, "png|val2017")
    assert len(source) == NUM
    for record, one in zip(source, scenes, strict=True):
        phrases = one.narrative.phrases
        assert record.caption == one.narrative.caption
        assert record.raw_expressions == tuple(phrase.text for phrase in phrases)
        assert record.spans == tuple(phrase.span for phrase in phrases)
        assert record.families == tuple(phrase.family for phrase in phrases)
        for mask, phrase in zip(record.masks, phrases, strict=True):
            wanted = [one.entities[k].mask for k in phrase.entities]
            np.testing.assert_array_equal(mask, np.any(wanted, 0) if wanted else np.zeros((SIZE, SIZE), bool))


def test_what_is_not_there_is_a_noun_without_segments(root, scenes):
    entries = json.loads((root / "coco/annotations/png_coco_val2017.json").read_text())
    lacking = 0
    for entry, one in zip(entries, scenes, strict=True):
        nouns = [segment for segment in entry["segments"] if segment["noun"]]
        for segment, phrase in zip(nouns, one.narrative.phrases, strict=True):
            assert (segment["segment_ids"] == []) == (phrase.family in ("absent", "abstract"))
            assert segment["plural"] == (len(phrase.entities) > 1)
            lacking += not phrase.entities
    assert lacking > 0


def test_expressions_read_back_the_same(root, scenes):
    """Those that mean one object; the instances are all of each picture, whatever is said about it."""
    instances = json.loads((root / "refer_seg/refcoco/instances.json").read_text())
    source = _open(root, "refcoco|unc|val")
    records = {record.image_id: record for record in source}
    assert len(records) == len(source) > 0
    refs = json.loads((root / "refer_seg/refcoco/refs(unc).json").read_text())
    assert len({ref["ref_id"] for ref in refs}) == len(refs) and {type(ref["ann_id"]) for ref in refs} == {int}
    for image, one in zip(instances["images"], scenes, strict=True):
        own = [a for a in instances["annotations"] if a["image_id"] == image["id"]]
        things = [entity for entity in one.entities if entity.kind in {kind.noun for kind in KINDS}]
        for annotation, thing in zip(own, things, strict=True):
            mask = decode_mask(annotation["segmentation"], annotation["segmentation"]["size"])
            np.testing.assert_array_equal(mask, thing.mask)
        single = [e for e in one.expressions if e.family in ("name", "place", "size")]
        if not single:
            assert image["id"] not in records
            continue
        record = records[image["id"]]
        assert record.raw_expressions == tuple(expression.text for expression in single)
        assert record.families == tuple(expression.family for expression in single)
        for mask, expression in zip(record.masks, single, strict=True):
            np.testing.assert_array_equal(mask, one.entities[expression.objects[0]].mask)
        assert open_picture(record.image).shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_every_split_is_the_public_val(tmp_path, split):
    names = write_narrated_scenes(tmp_path, 3, 0, split, SIZE)
    assert names == (("train2017", "val2017") if split == "train" else ("val2017",))
    first = narrated_scene(0, split, 0, SIZE)
    for name in NAMES:
        val = list(_open(tmp_path, name.format("val")))
        assert 0 < len(val) <= 3 and open_picture(val[0].image).shape == (SIZE, SIZE, 3)
        if split == "train":
            train = list(_open(tmp_path, name.format("train")))
            assert [record.image_id for record in train] == [record.image_id for record in val]
    assert _open(tmp_path, "png|val2017")[0].caption == first.narrative.caption


def test_train_shares_a_folder_with_another_split(tmp_path):
    """In either order, and writing a split again leaves nothing of what it was."""
    one, other = tmp_path / "one", tmp_path / "other"
    write_narrated_scenes(one, 5, 0, "train", SIZE)
    write_narrated_scenes(one, 4, 7, "val", SIZE)
    write_narrated_scenes(one, 3, 0, "val", SIZE)
    write_narrated_scenes(other, 3, 0, "val", SIZE)
    assert write_narrated_scenes(other, 5, 0, "train", SIZE) == ("train2017",)
    assert _files(one) == _files(other)
    assert len(list((one / "coco/val2017").iterdir())) == 3 and len(list((one / "coco/train2017").iterdir())) == 5
    assert len(list((one / PICTURES).iterdir())) == 8
    assert [len(_open(one, f"png|{name}2017")) for name in ("train", "val")] == [5, 3]


def test_val_and_test_are_never_taken_for_one_another(tmp_path):
    write_narrated_scenes(tmp_path, 2, 0, "val", SIZE)
    before = _files(tmp_path)
    with pytest.raises(ValueError, match="has split val as val2017: write split test to another folder"):
        write_narrated_scenes(tmp_path, 2, 0, "test", SIZE)
    assert _files(tmp_path) == before


def test_scenes_of_both_kinds_share_a_folder(tmp_path):
    write_scenes(tmp_path, 2, 0, "val", SIZE)
    before = _files(tmp_path)
    write_narrated_scenes(tmp_path, 2, 0, "val", SIZE)
    after = _files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(list((tmp_path / PICTURES).iterdir())) == 4


@pytest.mark.parametrize("file", ["panoptic_val2017.json", "png_coco_val2017.json", "panoptic_train2017.json"])
def test_other_data_is_not_overwritten(tmp_path, file):
    folder = tmp_path / "coco" / "annotations"
    folder.mkdir(parents=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "person", "isthing": 1}]}
    (folder / file).write_text(json.dumps(content))
    (folder / file).with_suffix("").mkdir()
    with pytest.raises(ValueError, match=re.escape(f"{folder} has files of something else (")):
        write_narrated_scenes(tmp_path, 1, 0, "val", SIZE)
    assert json.loads((folder / file).read_text()) == content


def test_the_committed_dozen_is_what_the_docs_say():
    """`gella data scenes --num 12 --seed 2032 --split test`, of which the files are not made anew here."""
    root = Path(__file__).parents[2] / "gella_jax/assets/scenes"
    source = _open(root, "png|val2017")
    assert len(source) == 12 and sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) <= 600_000
    for index, record in enumerate(source):
        one = narrated_scene(2032, "test", index, 320)
        assert record.caption == one.narrative.caption and record.size == (320, 320)
        assert (record.id_map > 0).all()
        assert np.mean(record.entities.masks == np.stack([entity.mask for entity in one.entities])) > 0.999
    assert any(not grounded for record in source for grounded in record.grounded)
    assert any(plural for record in source for plural in record.plural)


def test_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=re.escape(f"can't write scenes to {tmp_path / 'file' / 'out'}: ")):
        write_narrated_scenes(tmp_path / "file" / "out", 1, 0, "val", SIZE)


def test_bad_numbers_are_named(tmp_path):
    with pytest.raises(ValueError, match="num 1, seed 0, size 2049: .* size in 32..2048"):
        write_narrated_scenes(tmp_path, 1, 0, "val", 2049)
