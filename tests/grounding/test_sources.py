"""Random-access sources of the public datasets: what the release's ValDataset gives, and damaged files."""

import io
import json
import os
import pickle

import numpy as np
import pytest
from etils import epath

from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.sources.reasonseg import IGNORE, TARGET, ReasonSegSource, draw_shapes
from grounding_jax.data.sources.refer import ReferSource, evaluation_text
from grounding_jax.data.sources.registry import KNOWN_DATASETS
from grounding_jax.files import pictures
from grounding_jax.files.pickles import read_plain_pickle
from tests.small_datasets import write_refer

pytestmark = pytest.mark.quick

EVALUATED = {
    "grefcoco_val": "grefcoco|unc|val",
    "refcoco_val": "refcoco|unc|val",
    "refzom_test": "refzom|final|test",
    "reasonseg_val": "ReasonSeg|val",
}


@pytest.fixture(scope="module")
def data(golden):
    return golden / "gsva" / "data"


@pytest.fixture(scope="module")
def meta(golden):
    return json.loads((golden / "gsva" / "meta.json").read_text())


@pytest.mark.parametrize("key", EVALUATED)
def test_items_are_those_of_the_release(golden, data, meta, key):
    source = open_dataset(data, EVALUATED[key])
    assert len(source) == len(meta[key])
    for index, facts in enumerate(meta[key]):
        record = source[index]
        stored = np.load(golden / "gsva" / f"eval_{key}_{index}.npz")
        assert str(record.image).endswith(facts["image"])
        assert record.size == tuple(stored["original_sizes"][0])
        assert pictures.open_picture(record.image).shape[:2] == record.size
        # The release takes ignored pixels of ReasonSeg for the target (spec gsva h 8).
        masks = record.masks if record.ignore is None else record.masks | record.ignore
        assert masks.dtype == bool
        np.testing.assert_array_equal(masks, stored["gt_masks_0"].astype(bool))
        np.testing.assert_array_equal(record.rejected, ~masks.any((1, 2)))
        if key == "reasonseg_val":
            question = "{}" if record.is_sentence else "What is {} in this image?"
            assert "\n " + question.format(record.expressions[0]) + " Please" in facts["conversations"][0]
        else:
            question = ", ".join(record.expressions)
            answers = zip(record.expressions, record.rejected, strict=True)
            answer = ", ".join(f"{text}:[{'REJ' if rejected else 'SEG'}]" for text, rejected in answers)
            assert f"What are {question}in this image?" in facts["conversations"][0]
            assert f"Sure,{answer}.</s>" in facts["conversations"][0]


def test_training_reads_the_texts_as_they_are(data):
    record = ReferSource(data, "grefcoco|unc|train")[0]
    assert record.raw_expressions[2:4] == ("TABLE FROM", "with woman.")
    assert record.expressions[2:4] == ["table from", "with woman"]
    assert record.ref_ids == (500, 500, 501, 502, 503) and record.image_id == 1000
    assert record.families is None
    np.testing.assert_array_equal(record.masks_of([4, 0]), record.masks[[4, 0]])
    assert record.masks_of([]).shape == (0, *record.size)


def test_candidates_are_all_instances_of_a_picture(tmp_path):
    """Crowds left out, whether or not an expression means them; no mask is decoded before it is looked at."""
    root, name = tmp_path / "data", "grefcoco|unc|train"
    write_refer(root, np.random.default_rng(0), "grefcoco|unc")
    record = ReferSource(root, name)[1]
    entities = record.entities
    assert entities.ids == (5, 7, 8, 9) and entities.names == ("5", "7", "8", "9")  # 6 is a crowd
    assert set(record.instance_ids) == {(5,), (6,), (7,), (8,), (9,), (5, 7), ()}
    assert entities.masks.dtype == bool and not entities.masks[3].any()  # its polygon has two corners
    for ids, mask in zip(record.instance_ids, record.masks, strict=True):
        if 6 not in ids:
            own = [entities.ids.index(number) for number in ids]
            np.testing.assert_array_equal(entities.masks[own].any(0), mask)
    file = root / "refer_seg" / "grefcoco" / "instances.json"
    content = json.loads(file.read_text())
    content["annotations"].append({"id": 99, "image_id": 101, "segmentation": [["damaged"]]})
    file.write_text(json.dumps(content))
    damaged = ReferSource(root, name)[1]
    np.testing.assert_array_equal(damaged.masks, record.masks)
    with pytest.raises(ValueError, match="the mask of annotation 99"):
        _ = damaged.entities
    del content["annotations"][0]["image_id"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="nothing tells what else is in"):
        _ = ReferSource(root, name)[1].entities


def test_evaluation_text():
    assert [evaluation_text(text) for text in (" The Dog. ", "..a.b..", "Émile")] == [
        "the dog",
        "a.b",
        "émile",
    ]


@pytest.mark.parametrize(("split", "num"), [("train", 2), ("val", 2), ("train_val", 4)])
def test_reasonseg_splits(data, split, num):
    source = ReasonSegSource(data, f"ReasonSeg|{split}")
    assert [source[index].image.name for index in range(len(source))] == sorted(
        source[index].image.name for index in range(len(source))
    )
    assert len(source) == num


@pytest.mark.parametrize("name", ["train0", "train1", "val0", "val1"])
def test_reasonseg_labels_are_those_of_the_release(golden, data, name):
    source = ReasonSegSource(data, f"ReasonSeg|{name[:-1]}")
    stored = np.load(golden / "gsva" / "preprocess.npz")[f"reason_raw/{name}"]
    np.testing.assert_array_equal(source[int(name[-1])].label, stored)


def test_smaller_shapes_are_drawn_over_larger_ones():
    large = [[0, 0], [9, 0], [9, 9], [0, 9]]
    small = [[2, 2], [4, 2], [4, 4], [2, 4]]
    shapes = [
        {"label": "Ignore", "points": small},
        {"label": "target", "points": large},
        {"label": "FLAG", "points": large},
    ]
    label = draw_shapes(shapes, (10, 10))
    assert (label == IGNORE).sum() == 9 and (label == TARGET).sum() == 91


def test_reasonseg_reads_cp1252(data, tmp_path):
    folder = tmp_path / "reason_seg" / "ReasonSeg" / "test"
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes((data / "reason_seg" / "ReasonSeg" / "val" / "val0.jpg").read_bytes())
    annotation = {"text": ["the café’s sign"], "is_sentence": False, "shapes": []}
    (folder / "a.json").write_bytes(json.dumps(annotation, ensure_ascii=False).encode("cp1252"))
    record = ReasonSegSource(tmp_path, "ReasonSeg|test")[0]
    assert record.expressions == ["the café’s sign"] and not record.masks.any()
    (folder / "a.json").write_text('{"text": [], "is_sentence": true, "shapes": []}')
    with pytest.raises(ValueError, match=r"a\.json at \$\.text: expected `array` of length >= 1"):
        ReasonSegSource(tmp_path, "ReasonSeg|test")[0]
    (folder / "a.json").write_text('{"text": ["x"], "is_sentence": true}')
    with pytest.raises(ValueError, match=r"a\.json at \$: object missing required field `shapes`"):
        ReasonSegSource(tmp_path, "ReasonSeg|test")[0]


class Layout:
    """A little dataset in the public layout, which tests write and break."""

    def __init__(self, root, dataset: str, refs: list[dict], file: str):
        self.root = epath.Path(root)
        self.folder = self.root / "refer_seg" / dataset
        self.folder.mkdir(parents=True, exist_ok=True)
        self.refs_file = self.folder / file
        self.write_refs(refs)
        square = {"size": [6, 7], "counts": "=33000;"}
        self.write_instances(
            images=[{"id": n, "file_name": f"{n}.jpg", "height": 6, "width": 7} for n in (3, 70, 1)],
            annotations=[
                {"id": 1, "segmentation": [square, square]},
                {"id": 2, "segmentation": [[1, 2, 3, 4]]},
            ],
        )

    def write_refs(self, refs):
        packed = json.dumps(refs).encode() if self.refs_file.suffix == ".json" else pickle.dumps(refs, 2)
        self.refs_file.write_bytes(packed)

    def write_instances(self, **instances):
        (self.folder / "instances.json").write_text(json.dumps(instances))


def ref(ref_id, image_id, ann_id, split, *texts, **more):
    sentences = [{"sent": text} for text in texts]
    return {
        "ref_id": ref_id,
        "image_id": image_id,
        "ann_id": ann_id,
        "split": split,
        "sentences": sentences,
        **more,
    }


def test_records_of_every_annotation_form(tmp_path):
    refs = [
        ref(9, 70, [1, 2], "testA", "two", family="all"),
        ref(8, 3, [-1], "testA", "none", family="absent"),
        ref(7, 70, [], "testA", "empty list", family="absent"),
        ref(6, 70, [2], "testA", "degenerate polygon", family="name"),
        ref(5, 1, [1], "val", "elsewhere"),
    ]
    layout = Layout(tmp_path, "grefcoco", refs, "grefs(unc).json")
    source = open_dataset(layout.root, "grefcoco|unc|testA")
    assert [record.image_id for record in source] == [3, 70]
    record = source[1]
    assert record.image == layout.root / "refer_seg/images/mscoco/images/train2014/70.jpg"
    assert record.families == ("all", "absent", "name") and record.ref_ids == (9, 7, 6)
    assert record.masks.sum((1, 2)).tolist() == [9, 0, 0]
    assert record.rejected.tolist() == [False, True, True]
    assert open_dataset(layout.root, "grefcoco|unc|val")[0].families is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refcoco|unc|testA", ["a", "ab"]),
        ("refcoco|unc|testB", ["b", "ab"]),
        ("refcoco|unc|test", ["a", "b", "ab"]),
        ("refcoco|unc|val", ["v"]),
    ],
)
def test_splits_by_letter(tmp_path, name, expected):
    splits = {"testA": "a", "testB": "b", "testAB": "ab", "val": "v"}
    refs = [ref(number, 3, 1, split, text) for number, (split, text) in enumerate(splits.items())]
    layout = Layout(tmp_path, "refcoco", refs, "refs(unc).p")
    (record,) = open_dataset(layout.root, name)
    assert list(record.raw_expressions) == expected and record.masks.any((1, 2)).all()


def test_refclef_has_its_own_pictures(tmp_path):
    layout = Layout(tmp_path, "refclef", [ref(1, 3, 1, "train", "x")], "refs(unc).p")
    assert (
        open_dataset(layout.root, "refclef|unc|train")[0].image == layout.root / "refer_seg/images/saiapr_tc-12/3.jpg"
    )


def test_unknown_datasets_list_the_known_ones(data):
    for name in ("grefcoco|unc|tset", "coco", "refcocog|unc|val", ""):
        with pytest.raises(
            ValueError, match=r"unknown dataset .*grefcoco\|unc\|train/val/testA/testB.*ReasonSeg\|train/val"
        ):
            open_dataset(data, name)
    with pytest.raises(ValueError, match=r"unknown dataset 'ReasonSeg\|trian'; there are ReasonSeg\|train"):
        open_dataset(data, "ReasonSeg|trian")
    assert "refzom|final|test" in KNOWN_DATASETS


def test_missing_files_are_named(data, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"refcoco\+/refs\(unc\)\.p"):
        open_dataset(data, "refcoco+|unc|val")
    with pytest.raises(FileNotFoundError, match=r"grefs\(unc\)\.p or .*grefs\(unc\)\.json"):
        open_dataset(tmp_path, "grefcoco|unc|val")
    with pytest.raises(FileNotFoundError, match=r"no pictures: .*ReasonSeg/test/\*\.jpg"):
        open_dataset(data, "ReasonSeg|test")
    layout = Layout(tmp_path, "refzom", [ref(1, 3, [], "test", "x")], "Ref_ZOM.p")
    (layout.folder / "instances.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"missing: .*refzom/instances\.json"):
        open_dataset(tmp_path, "refzom|final|test")
    with pytest.raises(ValueError, match="no expressions of the split 'train', only of test"):
        open_dataset(tmp_path, "refzom|final|train")


def test_damaged_annotations_are_named(tmp_path):
    layout = Layout(tmp_path, "refcoco", [ref(1, 3, 1, "val", "it")], "refs(unc).p")
    name = "refcoco|unc|val"
    layout.write_instances(images=[], annotations=[])
    with pytest.raises(ValueError, match=r"instances\.json lacks image 3, .*2 are missing"):
        open_dataset(tmp_path, name)
    layout.write_instances(images=[], annotations=[{"number": 1}])
    with pytest.raises(ValueError, match=r"instances\.json at \$\.annotations\[0\]: .* field `id`"):
        open_dataset(tmp_path, name)
    (layout.folder / "instances.json").write_text('{"images": [')
    with pytest.raises(ValueError, match="not valid JSON"):
        open_dataset(tmp_path, name)
    broken = {"id": 1, "segmentation": [{"size": [7, 6], "counts": [42]}]}
    layout.write_instances(images=[{"id": 3, "file_name": "3.jpg", "height": 6, "width": 7}], annotations=[broken])
    with pytest.raises(ValueError, match=r"the mask of 'it' in .*3\.jpg is damaged: .*do not fit"):
        _ = open_dataset(tmp_path, name)[0].masks
    layout.write_refs([{"ref_id": 1}])
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p at \$\[0\]: .* field `ann_id`"):
        open_dataset(tmp_path, name)
    layout.write_refs({"ref_id": 1})
    with pytest.raises(ValueError, match=r"refs\(unc\)\.p at \$: expected `array`, got `object`"):
        open_dataset(tmp_path, name)


class Bomb:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    witness = tmp_path / "ran"
    bomb = [ref(1, 3, 1, "val", "it"), Bomb(f"touch {witness}")]
    assert pickle.loads(pickle.dumps(Bomb("exit 0"))) == 0  # such a pickle does run where it is let
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        layout = Layout(tmp_path, "refcoco", [], "refs(unc).p")
        layout.refs_file.write_bytes(pickle.dumps(bomb, protocol))
        with pytest.raises(ValueError, match=r"refs\(unc\)\.p: it asks for posix\.system, but only plain data"):
            open_dataset(tmp_path, "refcoco|unc|val")
    assert not witness.exists()


def test_pickles_of_python_2(tmp_path):
    """Its text form with byte strings, unicode strings and long integers."""
    file = epath.Path(tmp_path) / "refs.p"
    file.write_bytes(b"(dp0\nS'sent'\np1\nS'caf\\xc3\\xa9'\np2\nsS'raw'\np3\nVna\\u00efve\np4\nsS'id'\np5\nL12L\ns.")
    assert read_plain_pickle(file) == {"sent": "café", "raw": "naïve", "id": 12}


def test_damaged_pickles_give_one_clear_line(tmp_path):
    whole = pickle.dumps([ref(number, 3, 1, "val", "some text") for number in range(20)], 2)
    file = epath.Path(tmp_path) / "refs.p"
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole[: rng.integers(len(whole))] if rng.random() < 0.3 else whole)
        for position in rng.integers(0, max(len(damaged), 1), 3):
            damaged[position : position + 1] = bytes([rng.integers(256)])
        file.write_bytes(bytes(damaged))
        try:
            read_plain_pickle(file)
        except ValueError as error:
            assert str(error).startswith(f"cannot read the pickle {file}: ")
            refused += 1
    assert refused > 100


def test_sources_survive_pickling(data):
    """Loaders send sources and records to other processes."""
    buffer = io.BytesIO()
    pickle.dump(open_dataset(data, "grefcoco|unc|val"), buffer)
    source = pickle.loads(buffer.getvalue())
    assert pickle.loads(pickle.dumps(source[0])).expressions == source[0].expressions
