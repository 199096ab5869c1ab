"""Packed datasets give what the folders give; packing goes on where it stopped, and damage is found."""

import dataclasses
import json
import pickle
import shutil
import threading
import types

import numpy as np
import pytest

from gella_jax.cli import main as gella
from grounding_jax.data.check import check_dataset
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.packed import packing
from grounding_jax.data.packed.packing import prepare
from grounding_jax.data.packed.source import CHECKSUMS, read_checksums
from grounding_jax.files.digests import of_file
from grounding_jax.files.regular import PackedFile
from grounding_jax.training.mixture import usable
from gsva_jax.cli import main
from gsva_jax.data.mixture import Mixture
from gsva_jax.weights import open_official
from tests.command_line import failed
from tests.small_datasets import write_all
from tests.small_panoptic import write_entityseg, write_narratives, write_panoptic_tree

pytestmark = pytest.mark.quick

SHARDS = 2  # records of a shard
COCO, LLAVA = "refcoco|unc|train", "llava_instruct_150k"


def quiet(what, done, total):
    pass


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "_SHARD_RECORDS", SHARDS)
        yield


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A tree of all datasets, the same packed, and the names."""
    root, out = tmp_path_factory.mktemp("folders"), tmp_path_factory.mktemp("packed") / "new"
    names = list(write_all(root, seed=0))
    ended = list(prepare(root, out, names, 3, quiet))
    assert {packed.name for packed in ended if packed.problem is None} == set(names)
    return root, out, names


@pytest.fixture
def root(both, tmp_path):
    """A copy of the tree, to be damaged."""
    shutil.copytree(both[0], tmp_path / "root")
    return tmp_path / "root"


def test_examples_are_the_same_bit_for_bit(both, gsva_golden):
    root, out, names = both
    checkpoint = open_official(
        gsva_golden / "gsva-tiny-a.bin", gsva_golden / "tiny-llava", sizes=gsva_golden / "config.json"
    )
    mixtures = [
        Mixture(str(place), checkpoint.config, checkpoint.tokenizer, length=768, canvas=64, negative_share=0.5)
        for place in (root, out)
    ]
    targets = 0
    for name in names:
        folder, packed = (open_dataset(mixture.root, name) for mixture in mixtures)
        assert len(folder) == len(packed)
        for number in range(len(folder)):
            ours, theirs = (
                usable(source, number, np.random.default_rng(number), make=mixture.example)
                for mixture, source in zip(mixtures, (packed, folder), strict=True)
            )
            assert ours.keys() == theirs.keys()
            for key, value in theirs.items():
                np.testing.assert_array_equal(ours[key], value, err_msg=f"{name} {number} {key}", strict=True)
            targets += ours["target_valid"].sum()
    assert targets > 100


def test_records_are_the_same(both):
    """All attributes with their types; files have their names and bytes."""
    root, out, names = both
    for name in (*names, "ReasonSeg|val_train"):
        folder, packed = open_dataset(root, name), open_dataset(out, name)
        assert packed.name == name and packed.classes == getattr(folder, "classes", ())
        same_records(root, packed, folder)


def same_records(root, ours, theirs):
    """Asserts that the records of two sources are equal, but for files, which are packed in the first."""
    assert len(list(ours)) == len(theirs)
    for packed, stored in zip(ours, theirs, strict=True):
        assert type(packed) is type(stored)
        for field in dataclasses.fields(stored):
            value, packed_value = getattr(stored, field.name), getattr(packed, field.name)
            if isinstance(packed_value, PackedFile):
                assert (root / str(packed_value), packed_value.data) == (value, value.read_bytes())
                assert (packed_value.name, packed_value.stem) == (value.name, value.stem)
            elif field.name == "instances" and value is not None:  # not decoded yet
                assert packed.entities.ids == stored.entities.ids
                np.testing.assert_array_equal(packed.entities.masks, stored.entities.masks)
            else:
                assert repr(packed_value) == repr(value)


def test_datasets_of_entities(tmp_path, capsys):
    """Segments, captions, entities and the categories."""
    root, out = tmp_path / "root", tmp_path / "packed"
    write_narratives(root)
    write_entityseg(root)
    write_panoptic_tree(root)
    assert gella(["data", "prepare", str(root), str(out)]) == 0
    names = ("panoptic|val2017", "coco_entity|val2017", "png|val2017", "entityseg|val")
    for name in names:
        packed, folder = open_dataset(out, name), open_dataset(root, name)
        same_records(root, packed, folder)
        assert packed.categories == getattr(folder, "categories", ())
        if name != "png|val2017":
            np.testing.assert_array_equal(packed[0].entities.masks, folder[0].entities.masks)
    capsys.readouterr()
    assert gella(["data", "check", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in names) and "refcoco|unc train, val" in printed


def test_a_packed_source_travels_to_workers(both):
    source = pickle.loads(pickle.dumps(open_dataset(both[1], COCO)))
    assert source[2].image_id == 102 and len(source) == 3
    with pytest.raises(IndexError, match="3 records, no record 3"):
        source[3]


def test_checksums_are_those_of_the_shards(both):
    _, out, names = both
    shards = read_checksums(out)
    assert shards.keys() == set(names)
    assert list(shards[COCO]) == [
        f"refcoco_unc_train/1.0.0/refcoco_unc_train-records.array_record-0000{i}" for i in (0, 1)
    ]
    assert "refcoco_plus_unc_train" in next(iter(shards["refcoco+|unc|train"]))
    assert all(of_file(out / shard) == digest for shard, digest in shards[COCO].items())
    assert not [path for path in out.rglob("*") if path.suffix == ".part"]


def test_what_is_complete_is_left_and_what_was_interrupted_goes_on(root, tmp_path, monkeypatch):
    out, read, written = tmp_path / "out", [], packing.pack_record

    def pack_record(record, place):
        read.append(record.image.name)
        return written(record, place)

    monkeypatch.setattr(packing, "pack_record", pack_record)
    (root / "coco" / "train2017" / "000000000042.jpg").rename(root / "moved")
    instructions = root / "llava_dataset" / f"{LLAVA}.json"
    items = json.loads(instructions.read_text())
    items[1:2] = [items[1], {**items[1], "id": "again"}]  # the first two records are of another picture than the third
    instructions.write_text(json.dumps(items[1:]))
    first = {packed.name: packed for packed in prepare(root, out, (COCO, LLAVA), 2, quiet)}
    assert first[COCO].num_shards == 2 and "000000000042.jpg" in first[LLAVA].problem
    assert read_checksums(out).keys() == {COCO}
    (root / "moved").rename(root / "coco" / "train2017" / "000000000042.jpg")
    read.clear()
    (second,) = (packed for packed in prepare(root, out, (COCO, LLAVA), 2, quiet) if packed.name == LLAVA)
    assert second.num_shards == 2 and read == ["000000000007.jpg", "000000000042.jpg"], "once to see its kind"
    packed, folder = open_dataset(out, LLAVA), open_dataset(root, LLAVA)
    assert [record.turns for record in packed] == [record.turns for record in folder] and len(folder) == 3
    read.clear()
    assert len(list(prepare(root, out, (COCO, LLAVA), 2, quiet))) == 2 and not read


def test_an_interrupted_dataset_is_not_taken_for_complete(both, tmp_path):
    def interrupt(what, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(prepare(both[0], tmp_path, (COCO,), 1, interrupt))
    assert read_checksums(tmp_path) == {} and len(list(tmp_path.glob("*/*/*array_record*"))) == 1, "a torn shard"
    with pytest.raises(FileNotFoundError, match="'refcoco.unc.train' is not packed in"):
        open_dataset(tmp_path, COCO)
    list(prepare(both[0], tmp_path, (COCO,), 1, quiet))
    assert read_checksums(tmp_path)[COCO] == read_checksums(both[1])[COCO]


def test_whoever_stops_waits_for_one_record_only(both, tmp_path, monkeypatch):
    seen, stop = [], threading.Event()
    monkeypatch.setattr(packing, "threading", types.SimpleNamespace(Event=lambda: stop))

    def slow(what, done, total):
        seen.append(what)
        if what == LLAVA:
            stop.wait()  # is at this record when the stop comes

    ended = prepare(both[0], tmp_path, (COCO, LLAVA), 1, slow)
    assert next(ended).name == COCO
    ended.close()
    assert seen.count(LLAVA) < 2 and read_checksums(tmp_path).keys() == {COCO}


def test_damaged_and_missing_shards(both, tmp_path, capsys):
    out = tmp_path / "out"
    shutil.copytree(both[1], out)
    damaged, missing = (list(read_checksums(out)[name])[0] for name in (COCO, LLAVA))
    data = bytearray((out / damaged).read_bytes())
    data[100] ^= 1
    (out / damaged).write_bytes(data)
    (out / missing).unlink()
    assert check_dataset(out, COCO, quiet).problem == (
        f"a shard is damaged: {out / damaged}; remove its folder and pack '{COCO}' again"
    )
    assert f"a shard is missing: {out / missing}; pack '{LLAVA}' again" in check_dataset(out, LLAVA, quiet).problem
    assert check_dataset(out, "ade20k|training", quiet).pictures == 3
    assert check_dataset(out, "ReasonSeg|train_val", quiet).pictures == 3
    shutil.rmtree((out / damaged).parent)
    list(prepare(both[0], out, (COCO, LLAVA), 2, quiet))
    assert check_dataset(out, COCO, quiet).problem is check_dataset(out, LLAVA, quiet).problem is None


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_shard_is_noticed_when_it_is_read(both, tmp_path, cut):
    shutil.copytree(both[1], tmp_path / "out")
    shard = tmp_path / "out" / list(read_checksums(both[1])[COCO])[0]
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data[: len(data) // 2] if cut else data)
    with pytest.raises(ValueError, match="a shard of 'refcoco.unc.train' is damaged: (it is cut|Corrupted)"):
        source = open_dataset(tmp_path / "out", COCO)
        assert not cut and source[1].image_id == 101 and source[2].image_id == 102
        source[0]
    if not cut:
        assert source[1].image_id == 101, "others can be read afterwards"


def test_the_command(both, tmp_path, capsys):
    root = both[0]
    words = ["data", "prepare", str(root), str(tmp_path / "a"), "--workers", "2", "--datasets"]
    assert main([*words, COCO, "ReasonSeg|val"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert {f"{COCO}: 2 shards", "ReasonSeg|val: 1 shard"} < set(printed)
    assert printed[-1] == f"2 of 2 datasets are packed in {tmp_path / 'a'}"
    assert main([*words, COCO, "refcoco|unc|testB"]) == 1
    assert "refcoco|unc|testB: left out:" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "a")]) == 0
    assert "refcoco|unc val, testA, testB, test: 'refcoco|unc' is not packed" in capsys.readouterr().out
    assert main(["data", "prepare", str(tmp_path / "nothing"), str(tmp_path / "b")]) == 1
    assert "0 of 35 datasets" in capsys.readouterr().out


def test_what_can_not_be_packed(both, tmp_path, capsys):
    root, out, _ = both
    assert "unknown dataset 'refcoco'" in failed(capsys, "data", "prepare", root, tmp_path, "--datasets", "refcoco")
    assert "choose a local folder" in failed(capsys, "data", "prepare", root, "gs://bucket/packed")
    assert "is packed already" in failed(capsys, "data", "prepare", out, tmp_path)
    assert "choose another folder" in failed(capsys, "data", "prepare", root, root)
    assert not (root / CHECKSUMS).exists()
