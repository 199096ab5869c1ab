"""`gella` from its words to its files, with small random weights or answers that are made up."""

import dataclasses
import functools
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gella_jax.cli import main
from gella_jax.cli.loading import read_vocabulary
from gella_jax.panoptic import PanopticAnswer, Segment
from gella_jax.predict import Grounding, Noun, Nouns, Reference, as_entities
from grounding_jax.data.entity_masks import Entities, read_masks
from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC, Category
from grounding_jax.files.masks import encode_mask
from grounding_jax.segmenters.proposals import Proposals
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.weights import folder
from grounding_jax.weights.readers import open_weights
from tests import command_line
from tests.small_gella import CAPTION, small_gella, small_picture

pytestmark = pytest.mark.usefixtures("no_kept_programs")

NOUNS = ["A dog", "two cats", "the couch"]
failed = functools.partial(command_line.failed, main=main, program="gella")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A model folder of random weights."""
    gella, out = small_gella(), tmp_path_factory.mktemp("small") / "model"
    engine = gella.engine
    folder.save(out, folder.from_params(engine.params), engine.config.to_json(), engine.tokenizer.save)
    return out


@pytest.fixture
def scene(tmp_path) -> tuple[Path, Path]:
    """A picture, and four masks of which two overlap."""
    image, masks = small_picture()
    Image.fromarray(image).save(tmp_path / "picture.png")
    return tmp_path / "picture.png", write_masks(tmp_path / "masks.json", masks)


def write_masks(file: Path, masks: np.ndarray) -> Path:
    records = [{"id": 10 + k, "segmentation": encode_mask(mask)} for k, mask in enumerate(masks)]
    file.write_text(json.dumps(records))
    return file


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


class Told:
    """A model that gives made-up answers, and keeps what it was asked; perhaps it finds masks, too."""

    def __init__(self, segmenter=None, **answers):
        self.segmenter, self.answers, self.asked = segmenter, answers, {}
        self.categories = COCO_PANOPTIC

    def __getattr__(self, task: str):
        def answer(*arguments, **options):
            self.asked[task] = (*arguments, *options.values())
            return self.answers[task]

        return answer


@pytest.fixture
def tells(monkeypatch):
    """Puts a model of made-up answers in the place of the one that would be loaded."""

    def put(**answers) -> Told:
        told = Told(**answers)

        def load(*arguments) -> Told:
            told.loaded = arguments
            return told

        monkeypatch.setattr("gella_jax.loading.load", load)
        return told

    return put


# --- with a model


def test_ground_with_given_nouns(model, scene, tmp_path, capsys):
    picture, masks = scene
    options = ["--masks", masks, "--checkpoint", model, "--out", tmp_path / "out"]
    run("ground", picture, CAPTION, "--nouns", *NOUNS, "a bird", *options)
    content = json.loads((tmp_path / "out" / "grounding.json").read_text())
    image, arrays = small_picture()
    expected = small_gella().ground(image, CAPTION, arrays, [*NOUNS, "a bird"])
    assert [noun["text"] for noun in content["nouns"]] == [*NOUNS, "a bird"]
    for noun, other in zip(content["nouns"], expected.nouns, strict=True):
        np.testing.assert_allclose(noun["scores"], other.scores, atol=2e-5)
        assert noun["mask_ids"] == [10 + place for place in other.masks]
    assert (content["image"], content["answer"]) == (str(picture), expected.text)
    printed = capsys.readouterr().out
    assert printed.startswith(expected.text) and "1 of 4 nouns not in the caption: a bird" in printed
    for name in ("grounding.png", "grounding.html", "grounding.json"):
        assert (tmp_path / "out" / name).exists() and str(tmp_path / "out" / name) in printed


def test_what_only_the_model_can_find_wrong(model, scene, tmp_path, capsys):
    picture, masks = scene
    words = ["ground", picture, "a dog " * 2500, "--nouns", "dog", "--masks", masks, "--checkpoint", model]
    assert main([*map(str, words), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gella: error: the caption with its question and answer needs") and "a dog" in error
    assert list((tmp_path / "out").iterdir()) == []
    words = ["describe", picture, "--checkpoint", tmp_path / "nothing"]
    assert main([*map(str, words)]) == 2
    assert "no such model folder" in capsys.readouterr().err
    assert main(["describe", str(picture), "--checkpoint", "huge"]) == 2
    assert "huge: no such model folder; shipped with the package: " in capsys.readouterr().err


def test_masks_that_cannot_be_meant_are_counted(model, scene, tmp_path, capsys):
    picture, _ = scene
    masks = np.zeros((12, 50, 70), bool)
    for k in range(10):
        masks[k, :, 7 * k : 7 * k + 3 + k % 4] = True
    masks[10, :, 0:3] = True  # painted over by the first; the last is empty
    source = write_masks(tmp_path / "many.json", masks)
    options = ["--masks", source, "--checkpoint", model, "--out", tmp_path / "out"]
    run("ground", picture, CAPTION, "--nouns", *NOUNS, "a bird", *options)
    content = json.loads((tmp_path / "out" / "grounding.json").read_text())
    assert content["left_out"] == {"hidden": 2, "surplus": 4} and len(content["masks"]) == 12
    reasons = [mask["left_out"] for mask in content["masks"]]
    assert (reasons.count("hidden"), reasons.count("surplus"), reasons.count(None)) == (2, 4, 6)
    printed = capsys.readouterr().out
    assert "masks left out: 2, nothing is seen of them" in printed
    assert "masks left out: 4, more than the model takes" in printed


# --- with made-up answers


def test_ground_hands_everything_over(tells, scene, tmp_path, capsys):
    image, masks = small_picture()
    noun = Noun("dog", (2, 5), (1,), np.array([0, 0.9, 0, 0], np.float32), masks[1])
    answer = Grounding("an answer", CAPTION, (noun,), as_entities(masks), {"hidden": (), "surplus": ()})
    told = tells(ground_many=[answer])
    options = ["--threshold", "0.3", "--output-masks", "decoded", "--checkpoint", "x", "--out", tmp_path / "out"]
    run("ground", scene[0], CAPTION, "--masks", scene[1], "--absent", *options)
    (request,), *options = told.asked["ground_many"]
    np.testing.assert_array_equal(request.image, image)
    np.testing.assert_array_equal(request.entities.masks, masks)
    assert request.entities.ids == (10, 11, 12, 13)
    assert (request.caption, request.nouns, *options) == (CAPTION, None, 0.3, "decoded", True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "an answer" and lines[1].split() == ["dog", "0.90", "17.1%", "of", "the", "picture", "#1"]


def test_describe_prints_nothing_but_the_description(tells, scene, tmp_path, capsys):
    told = tells(describe="Two [cats] on\na couch.")
    run("describe", scene[0], "--checkpoint", "x", "--max-new", 7)
    assert capsys.readouterr().out == "Two [cats] on\na couch.\n" and told.asked["describe"][1] == 7
    run("describe", scene[0], "--checkpoint", "x", "--out", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "description.json").read_text())
    assert content == {"image": str(scene[0]), "description": "Two [cats] on\na couch."}


def test_devices_and_dtype_reach_the_model(tells, scene, tmp_path):
    (tmp_path / "album").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "album" / name).write_bytes(scene[0].read_bytes())
    entities = read_masks(scene[1], (50, 70))
    told = tells(describe="", nouns=Nouns("", (), ()), ground_many=[Grounding("", "", (), entities, {})] * 2)
    told.engine = SimpleNamespace(batcher=SimpleNamespace(multiple=1))
    ground = ["--masks", scene[1], "--out", tmp_path / "out"]
    (tmp_path / "all").mkdir()
    for name in ("a.json", "b.json"):
        (tmp_path / "all" / name).write_bytes(scene[1].read_bytes())
    for words, mesh in (
        (["describe", scene[0]], None),
        (["nouns", scene[0], "a dog", "--mesh.tensor", 4], MeshShape(-1, 1, 4)),
        (["ground", scene[0], *ground, "--mesh.fsdp", 2, "--mesh.data", 1], MeshShape(1, 2, 1)),
        (["ground", tmp_path / "album", "--masks", tmp_path / "all", "--out", tmp_path / "o"], MeshShape(-1, 1, 1)),
    ):
        run(*words, "--dtype", "bfloat16")
        assert told.loaded == ("tiny", "bfloat16", mesh)


def test_nouns(tells, scene, tmp_path, capsys):
    tells(nouns=Nouns("an answer", ("A dog", "a bird"), ((0, 5), None)))
    run("nouns", scene[0], CAPTION, "--checkpoint", "x", "--out", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "an answer" and "characters 0 to 5" in lines[1] and "not in the caption" in lines[2]
    assert json.loads((tmp_path / "out" / "nouns.json").read_text())["nouns"][1] == {"text": "a bird", "span": None}


def test_refer(tells, scene, tmp_path, capsys):
    _, masks = small_picture()
    told = tells(refer=Reference("the cat", "an answer", ("the cat",), 2, 0.75, masks[2]))
    run("refer", scene[0], "the cat", "--masks", scene[1], "--checkpoint", "x", "--out", tmp_path / "out")
    assert told.asked["refer"][1] == "the cat" and told.asked["refer"][3] == "input"
    (record,) = command_line.records(tmp_path / "out")
    assert (record["mask_id"], record["expression"], record["area"]) == (12, "the cat", masks[2].sum())
    printed = capsys.readouterr().out
    assert (
        "an answer" in printed
        and "0.75" in printed
        and "mask 3 of 4\n" in printed
        and str(tmp_path / "out" / "overlay.png") in printed
    )


def test_panoptic_results_can_be_masks_again(tells, scene, tmp_path, capsys):
    _, masks = small_picture()
    cat, ids = Category(2, "cat", True), np.where(masks[0], 1, 0).astype(np.int32)
    told = tells(panoptic=PanopticAnswer(ids, (Segment(1, cat, 0.75),)))
    words = ["panoptic", scene[0], "--masks", scene[1], "--vocabulary", "dog", "cat", "--checkpoint", "x", "--out"]
    run(*words, tmp_path / "out")
    assert told.asked["panoptic"][2] == (Category(1, "dog", True), cat)
    assert "segments: 1, from 4 masks" in capsys.readouterr().out
    entities = read_masks(tmp_path / "out" / "panoptic.png")
    assert entities.names == ("cat",) and (entities.masks[0] == masks[0]).all()
    error = failed(capsys, *words[:3], tmp_path / "out" / "panoptic.png", *words[4:], tmp_path / "out")
    assert error.startswith("results would be written over") and error.endswith("choose another --out")


def test_a_segmenter_makes_the_masks(tells, monkeypatch, scene, tmp_path, capsys):
    _, masks = small_picture()
    found = Entities(masks, (0, 1, 2, 3), tuple("0123"), np.ones(4, np.float32))
    proposals = Proposals(found, {"improbable": 0, "unseen": 7})
    monkeypatch.setattr("grounding_jax.segmenters.load_segmenter", lambda *_: lambda images: [proposals])
    told = tells(refer=Reference("the cat", "", (), 2, 0.75, masks[2]))
    (tmp_path / "sam.pth").touch()
    words = ["refer", scene[0], "the cat", "--segmenter", tmp_path / "sam.pth", "--checkpoint", "x", "--out"]
    run(*words, tmp_path / "out")
    assert told.asked["refer"][2] is found
    assert "sam.pth: 4, 7 left out: unseen" in capsys.readouterr().err
    proposals = Proposals(Entities(masks[:0], (), ()), {})
    assert main([*map(str, words), str(tmp_path / "out")]) == 2
    assert "finds no mask in this picture: name yours with --masks" in capsys.readouterr().err


def test_a_model_that_finds_masks_says_that_they_are_its_own(tells, scene, tmp_path, capsys):
    _, masks = small_picture()
    found = Entities(masks, (0, 1, 2, 3), tuple("0123"), np.ones(4, np.float32))
    told = tells(
        segmenter=lambda images: [Proposals(found, {"unseen": 2})],
        refer=Reference("the cat", "", (), 2, 0.75, masks[2]),
        panoptic=PanopticAnswer(np.zeros((50, 70), np.int32), ()),
        ground_many=[Grounding("", "a dog", (), found, {})],
    )
    options = ["--checkpoint", "./x", "--out", tmp_path / "out"]
    for task, words in (("refer", ["the cat"]), ("panoptic", []), ("ground", ["a dog"])):
        run(task, scene[0], *words, *options)
        assert "masks found by ./x itself: 4, 2 left out: unseen" in capsys.readouterr().err
    assert told.asked["refer"][2] is told.asked["panoptic"][1] is told.asked["ground_many"][0][0].entities is found
    (tmp_path / "x").mkdir()
    options = ["--checkpoint", tmp_path / "x", "--out", tmp_path / "none"]
    for task, words in (("refer", ["the cat"]), ("panoptic", []), ("ground", [])):
        error = failed(capsys, task, scene[0], *words, *options)  # before a model is loaded
        assert error.startswith(f"no masks, and {tmp_path / 'x'} finds none itself: name yours with --masks, or with")


# --- many pictures


@pytest.fixture
def album(tmp_path) -> Path:
    """A folder of pictures, one of them none, and masks for all but one, each in another form."""
    image, masks = small_picture()
    for name in ("a.png", "b.jpg", "bad.png", "e.png"):
        (tmp_path / "album").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "album" / name)
    (tmp_path / "album" / "bad.png").write_bytes(b"no picture")
    (tmp_path / "album" / "notes.txt").touch()
    (tmp_path / "masks" / "b").mkdir(parents=True)
    write_masks(tmp_path / "masks" / "a.json", masks)
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(tmp_path / "masks" / "b" / f"{k}.png")
    return tmp_path / "album"


def test_a_folder_loses_only_the_pictures_that_are_bad(model, album, tmp_path, capsys):
    options = ["--masks", album.parent / "masks", "--batch-size", 1, "--checkpoint", model, "--out", tmp_path / "out"]
    assert main([str(word) for word in ("ground", album, CAPTION, "--nouns", *NOUNS, *options)]) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a", "b"}
    image, masks = small_picture()
    expected = small_gella().ground(image, CAPTION, masks, NOUNS)
    content = json.loads((tmp_path / "out" / "a" / "grounding.json").read_text())
    for noun, other in zip(content["nouns"], expected.nouns, strict=True):
        np.testing.assert_allclose(noun["scores"], other.scores, atol=2e-5)
    assert content["masks"][0]["id"] == 10 and content["image"] == str(album / "a.png")
    printed = capsys.readouterr()
    assert "2 of 4 pictures done" in printed.out and "left out 1 other files" in printed.err
    errors = [line for line in printed.err.splitlines() if line.startswith("gella: error: ")]
    assert len(errors) == 2 and "not a format that is read here" in errors[0]
    assert "there are no masks for 'e.png': no " in errors[1]


def test_lines_of_a_file_say_what_is_given(tells, scene, tmp_path, capsys):
    picture, masks = scene
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "picture.png").write_bytes(picture.read_bytes())
    lines = [
        {"image": "picture.png", "masks": "masks.json"},
        {"image": "sub/picture.png", "caption": "a dog", "nouns": ["dog"], "masks": "masks.json"},
        {"image": "picture.png", "caption": " . ", "masks": "masks.json"},
        {"image": "picture.png", "nouns": ["dog"], "masks": "masks.json"},
        {"image": "picture.png", "caption": "a dog", "masks": "none.json"},
    ]
    wishes = tmp_path / "wishes.jsonl"
    wishes.write_text("\n".join(map(json.dumps, lines)))
    entities = read_masks(masks, (50, 70))
    answer = Grounding("an answer", "it wrote this", (), entities, {}, finished=False, described=True)
    told = tells(ground_many=[answer, dataclasses.replace(answer, described=False, finished=True)])
    told.engine = SimpleNamespace(batcher=SimpleNamespace(multiple=1))
    words = ["ground", wishes, "--batch-size", 2, "--checkpoint", "x", "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 1
    first, second = told.asked["ground_many"][0]
    assert (first.caption, first.nouns, second.caption, second.nouns) == (None, None, "a dog", ("dog",))
    assert first.entities.ids == second.entities.ids == (10, 11, 12, 13)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"picture", "picture-2"}
    content = [
        json.loads((tmp_path / "out" / name / "grounding.json").read_text()) for name in ("picture", "picture-2")
    ]
    assert [one["described"] for one in content] == [True, False]
    assert "<p>the model wrote the caption itself</p>" in (tmp_path / "out" / "picture" / "grounding.html").read_text()
    printed = capsys.readouterr()
    assert printed.out.count("the model's own caption: it wrote this\nan answer\n") == 1
    assert printed.err.count("what the model wrote was cut off") == 1
    errors = [line for line in printed.err.splitlines() if line.startswith("gella: error: ")]
    parts = ("the sentence ' . ' is empty", "the nouns dog are of no caption", "there are no masks '")
    for error, part in zip(errors, parts, strict=True):
        assert part in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"image": "picture.png", "mask": "masks.json"}, "line 1 at $: object contains unknown field `mask`"),
        ({"image": ""}, "line 1 at $.image: expected `str` of length >= 1"),
        ({"image": "picture.png", "nouns": "dog"}, "line 1 at $.nouns: expected `array | null`, got `str`"),
        ({"image": "sub/picture.png"}, "would both get the masks of picture in"),
    ],
)
def test_a_file_of_wishes_that_is_wrong(scene, tmp_path, capsys, line, message):
    (tmp_path / "wishes.jsonl").write_text("\n".join(map(json.dumps, [line, {"image": "picture.png"}])))
    options = ["--masks", tmp_path, "--checkpoint", tmp_path / "none", "--out", tmp_path / "out"]
    assert message in failed(capsys, "ground", tmp_path / "wishes.jsonl", *options)
    for words in (["a dog"], ["--nouns", "dog"]):
        assert "has its own captions and nouns" in failed(capsys, "ground", tmp_path / "x.jsonl", *words, *options)
    assert not (tmp_path / "out").exists()


# --- bad input: one line before a model is loaded, and nothing is written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ground PICTURE --nouns dog --masks MASKS", "the nouns dog are of no caption: give that, too"),
        ("ground PICTURE --batch-size 0 --masks MASKS", "--batch-size 0: must be at least 1"),
        ("refer PICTURE 'a dog' --masks MASKS --segmenter PICTURE", "masks twice: name yours with --masks, or"),
        ("panoptic PICTURE --segmenter TMP/none.pth", "there is no segmenter"),
        ("ground PICTURE ' . ' --masks MASKS", "the sentence ' . ' is empty"),
        ("refer PICTURE '' --masks MASKS", "expression is empty: give it a value"),
        ("refer PICTURE ',' --masks MASKS", "it needs a word"),
        ("nouns PICTURE .", "the sentence '.' is empty"),
        ("ground PICTURE 'a dog' --nouns dog '' --masks MASKS", "noun 2 of 2 is ''"),
        ("ground PICTURE 'a dog' --threshold 1.5 --masks MASKS", "--threshold 1.5: must be between 0 and 1"),
        ("describe PICTURE --max-new 0", "--max-new 0: must be at least 1"),
        ("describe TMP/none.png", "there is no picture"),
        ("ground MASKS 'a dog' --masks MASKS", "not a format that is read here"),
        ("ground PICTURE 'a dog' --masks TMP/none.json", "there are no masks"),
        ("ground PICTURE 'a dog' --masks TMP/empty.json", "there is not one mask in"),
        ("ground PICTURE 'a dog' --masks TMP/small.json", "has 40 x 70 pixels, but the picture has 50 x 70"),
        ("ground PICTURE 'a dog' --masks TMP/unlisted.png", "has the segment 2, which"),
        ("ground PICTURE 'a dog' --masks TMP/unseen.png", "of which"),
        ("ground PICTURE 'a dog' --masks TMP/notes.txt", "cannot read masks from"),
        ("panoptic PICTURE --masks MASKS --vocabulary cat dog Cat", "the vocabulary has 'cat' more than once"),
        ("panoptic PICTURE --masks MASKS --vocabulary cat ' '", "a vocabulary needs names, each with a word"),
        ("panoptic PICTURE --masks MASKS --vocabulary TMP/none.txt", "a file is missing"),
        ("panoptic PICTURE --masks MASKS --vocabulary TMP/empty.txt", "a vocabulary needs names"),
        ("panoptic PICTURE --masks MASKS --vocabulary MASKS", "should be a list of categories like"),
        ("panoptic PICTURE --masks MASKS --vocabulary TMP/twice.json", "has category 3 twice"),
    ],
)
def test_bad_input(scene, tmp_path, capsys, words, message):
    picture, masks = scene
    write_masks(tmp_path / "empty.json", np.zeros((0, 50, 70)))
    write_masks(tmp_path / "small.json", np.ones((1, 40, 70), bool))
    for name, listed in (("unlisted", [1]), ("unseen", [1, 2, 3])):
        ids = np.ones((50, 70), np.uint8)
        ids[0] = 2
        Image.fromarray(ids).save(tmp_path / f"{name}.png")
        segments = [{"id": number, "category_id": 1} for number in listed]
        (tmp_path / f"{name}.json").write_text(json.dumps({"segments_info": segments}))
    (tmp_path / "notes.txt").write_text("no masks")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "twice.json").write_text(json.dumps([{"id": 3, "name": name, "isthing": 1} for name in ("a", "b")]))
    places = {"PICTURE": str(picture), "MASKS": str(masks)}
    filled = [places.get(word, word.replace("TMP", str(tmp_path))) for word in shlex.split(words)]
    assert message in failed(capsys, *filled, "--checkpoint", tmp_path / "none", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_stay_away_from_what_they_are_made_of(scene, tmp_path, capsys, monkeypatch):
    picture, masks = scene
    mine = tmp_path / "overlay.png"
    mine.write_bytes(picture.read_bytes())
    options = ["--checkpoint", "x", "--out", tmp_path]
    assert "choose another --out" in failed(capsys, "refer", mine, "dog", "--masks", masks, *options)
    assert mine.read_bytes() == picture.read_bytes()
    monkeypatch.chdir(tmp_path)  # whether or not its path says where it is
    assert "choose another --out" in failed(capsys, "refer", "overlay.png", "dog", "--masks", masks, *options)
    (tmp_path / "parts").mkdir()
    Image.fromarray(np.eye(50, 70, dtype=np.uint8)).save(tmp_path / "parts" / "1.png")
    words = ["refer", picture, "dog", "--masks", tmp_path / "parts", "--checkpoint", "x", "--out", tmp_path / "parts"]
    assert "or into it: choose another --out" in failed(capsys, *words)
    (tmp_path / "album").mkdir()
    (tmp_path / "album" / "1.png").write_bytes(picture.read_bytes())
    words = ["ground", tmp_path / "album", "--masks", tmp_path / "parts", "--checkpoint", "x", "--out"]
    assert "or into it: choose another --out" in failed(capsys, *words, tmp_path / "parts")
    assert len(list((tmp_path / "parts").iterdir())) == 1
    assert "can't write to the folder" in failed(capsys, "describe", picture, "--checkpoint", "x", "--out", masks)


def test_vocabularies(tmp_path):
    assert read_vocabulary(["dog"]) == (Category(1, "dog", True),)
    (tmp_path / "names.txt").write_text("dog\n\n  brick wall \n")
    assert [category.name for category in read_vocabulary([str(tmp_path / "names.txt")])] == ["dog", "brick wall"]
    listed = [{"id": 3, "name": "dog", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0, "color": [1, 2, 3]}]
    for content in (listed, {"categories": listed}):
        (tmp_path / "names.json").write_text(json.dumps(content))
        categories = read_vocabulary([str(tmp_path / "names.json")])
        assert categories == (Category(3, "dog", True), Category(9, "sky", False))


# --- checkpoints


def test_what_was_exported_is_imported_the_same(model, tmp_path, capsys):
    run("export", model, "--format", "original", "--out", tmp_path / "parts")
    assert {path.name for path in (tmp_path / "parts").iterdir()} >= {"llava", "clip", "mask2former.pth", "gella"}
    run("import", "--format", "exported", tmp_path / "parts", "--out", tmp_path / "again")
    assert "template: plain" in capsys.readouterr().out
    before, after = (open_weights(path) for path in (model, tmp_path / "again"))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name].read(), after[name].read(), strict=True)
    assert "already exists" in failed(capsys, "export", model, "--format", "original", "--out", tmp_path / "parts")


def test_import_of_parts_hands_everything_over(monkeypatch, tmp_path, capsys):
    seen = {}

    class Opened:
        def save(self, out, progress):
            seen["out"] = out
            return ("fresh: ResoBlend (paper)",)

    def open_parts(*parts, **options):
        seen["parts"], seen["options"] = parts, options
        return Opened()

    monkeypatch.setattr("gella_jax.weights.open_parts", open_parts)
    words = "import --format llava --language-model L --vision-tower V --mask2former M --backbone B --backbone-name N"
    options = "--preset paper --sizes S --template plain --seed 3 --out CKPT"
    run(*words.split(), *options.split())
    assert seen["parts"] == ("L", "V", "M", "B") and seen["out"] == "CKPT"
    options = dict(backbone_name="N", preset="paper", sizes="S", template="plain", seed=3)
    assert seen["options"] == options
    assert capsys.readouterr().out.splitlines() == ["  fresh: ResoBlend (paper)", "the model folder CKPT is complete"]
    run("import", "--format", "llava", "--language-model", "L", "--out", "CKPT")
    assert seen["parts"] == ("L", None, None, None)
    assert seen["options"] == dict.fromkeys(options) | {"preset": "skip", "seed": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("llava --out x", "--format llava needs --language-model; see gella import --help"),
        ("llava a --language-model b --out x", "no file or folder before the options; there are 1"),
        ("exported --out x", "--format exported takes EXPORTED; there are 0"),
        ("exported a --seed 1 --out x", "--format exported has no use for --seed"),
    ],
)
def test_import_says_what_a_format_takes(capsys, words, message):
    assert message in failed(capsys, "import", "--format", *words.split())
