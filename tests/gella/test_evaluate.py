"""GELLA's evaluation: what an oracle and a random model get, and what is counted where nothing can be asked."""

import collections
import functools
import json
import re
import shutil
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from gella_jax.cli import main
from gella_jax.evaluation.masks import mask_source
from gella_jax.evaluation.published import ABLATIONS, SYSTEMS, markdown_table
from gella_jax.evaluation.run import check_dataset, evaluate
from gella_jax.evaluation.tasks import TASKS, match_nouns
from gella_jax.predict import Noun, as_entities
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import Entities, mask_file, read_masks
from grounding_jax.files.masks import mask_record
from tests.command_line import failed
from tests.gella.oracle import Oracle
from tests.small_datasets import write_all
from tests.small_gella import small_gella
from tests.small_panoptic import write_entityseg, write_narratives, write_panoptic_tree

pytestmark = pytest.mark.usefixtures("no_kept_programs")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    write_all(root, 0)
    write_panoptic_tree(root)
    write_narratives(root)
    write_entityseg(root)
    return root


def run(root, dataset, protocol, **options):
    oracle = Oracle(open_dataset(root, dataset))
    return evaluate(oracle, root, dataset, protocol, **{"masks": "truth", **options}), oracle


@pytest.mark.parametrize("protocol", ["official", "guided", "generated"])
def test_the_truth_has_full_recall(root, protocol):
    report, oracle = run(root, "png|val2017", protocol)
    assert report["AR"] == pytest.approx(0.99999) and report["AR_plurals"] == pytest.approx(0.99999)
    assert report["num_phrases"] == 6 and report["num_left_out"] == 1 and report["num_targets"] == 7
    assert report["num_unplaced"] == 1  # the caption has no "clouds"
    assert (report["num_hidden"], report["num_surplus"]) == (3, 6)
    assert (oracle.asked[0] is not None) == (protocol == "official")
    assert ("AR_text" in report) == (protocol == "generated")
    if protocol == "generated":
        assert report["AR_text"] == 1.0 and report["num_missing"] == 0


def test_a_caption_that_is_too_long_is_counted_and_finds_nothing(root, monkeypatch):
    monkeypatch.setattr(Oracle, "fits", lambda self, caption, nouns=None: "sky" not in caption)
    report, _ = run(root, "png|val2017", "generated")
    assert report["num_too_long"] == 1 and report["num_missing"] == 3
    assert report["acc@0.5"] == 0.5  # three of six phrases


@pytest.mark.parametrize("batch_size", [1, 2, 3])  # of three pictures: the last batch is filled up
def test_expressions(root, batch_size):
    for protocol in ("official", "guided", "generated"):
        report, oracle = run(root, "refcoco|unc|train", protocol, batch_size=batch_size)
        assert report["cIoU"] == 1.0 and report["Pr@0.9"] > 0
        assert report["num_images"] == 3 and report["num_targets"] > 3
        # Whatever is in the picture, not only what some expression means; one of the five is a crowd.
        assert [request.entities.ids for request in oracle.asked if request.image_id == "101"][0] == (5, 7, 8, 9)


def test_categories_and_a_picture_without_masks(root):
    report, _ = run(root, "panoptic|val2017", "official")
    assert report["PQ"] == 1.0 and report["num_without_masks"] == 1  # one picture is nothing but a crowd
    assert report["num_images"] == 3 and report["num_targets"] == 5


@pytest.mark.parametrize("dataset", ["entityseg|val", "coco_entity|val2017"])
def test_entities(root, dataset):
    report, _ = run(root, dataset, "official")
    assert report["AP"] == pytest.approx(1.0) and report["output_masks"] == "decoded"
    assert report["num_predicted"] == report["num_targets"] and report["num_hidden"] > 0


def test_a_random_model_is_evaluated_on_everything(root, tmp_path):
    """Numbers of two kinds of datasets, the same in the file, and nothing unfinished is left."""
    gella = small_gella()
    for dataset, metric in (("png|val2017", "AR"), ("coco_entity|val2017", "AP")):
        files = dict(out_json=tmp_path / "report.json", masks="truth", batch_size=2)
        report = evaluate(gella, root, dataset, "official", **files)
        assert 0 <= report[metric] <= 1
        assert json.loads((tmp_path / "report.json").read_text()) == report
    assert not list(tmp_path.glob("*.partial*"))


def test_results_that_do_not_have_every_picture(root, tmp_path):
    """As COCO's results list what was found, by the number of the picture."""
    record = open_dataset(root, "panoptic|val2017")[1]
    found = [{"image_id": record.image_id, "score": 0.5, **mask_record(mask)} for mask in record.entities.masks]
    (tmp_path / "results.json").write_text(json.dumps(found))
    report, _ = run(root, "panoptic|val2017", "official", masks=tmp_path / "results.json")
    assert report["num_without_masks"] == 2 and report["num_images"] == 3


@pytest.mark.parametrize("dataset", ["png|val2017", "refcoco|unc|train"])
def test_texts_without_words_are_counted(root, dataset, monkeypatch):
    monkeypatch.setattr("gella_jax.prompts.clean_noun", lambda text: "")
    report, _ = run(root, dataset, "guided")
    assert report["num_wordless"] == report["num_images"]


def test_the_command(root, tmp_path, monkeypatch, capsys):
    oracle = Oracle(open_dataset(root, "png|val2017"))
    monkeypatch.setattr("gella_jax.loading.load", lambda *_: oracle)
    words = ["evaluate", "--checkpoint", "CKPT", "--data", root, "--dataset", "png|val2017", "--protocol", "generated"]
    words += ["--json", tmp_path / "a" / "report.json", "--markdown", tmp_path / "table.md"]
    assert main([*map(str, words), "--masks", "truth"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("masks: those of the dataset itself (truth)\ndataset")
    assert "acc@0.5         " in printed and "1.0000" in printed and "PPO-TD" not in printed
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report["dataset"] == "png|val2017" and report["protocol"] == "generated" and report["num_images"] == 3
    assert (tmp_path / "table.md").read_text() == markdown_table(report)
    masks = root / "coco" / "annotations" / "panoptic_segmentation" / "val2017"
    assert main([*map(str, words), "--masks", str(masks)]) == 0
    assert json.loads((tmp_path / "a" / "report.json").read_text())["masks"] == str(masks)
    printed = capsys.readouterr().out
    assert printed.startswith(f"masks: {masks}\n") and "PPO-TD" in printed
    wrong = functools.partial(failed, capsys, main=main, program="gella")
    assert main([*map(str, words)]) == 2  # only the model knows whether it can find masks
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(
        "gella: error: whose masks? There are --masks truth, those of the dataset; --masks SOURCE, "
    )
    assert "name either --masks or --segmenter" in wrong(*words, "--masks", masks, "--segmenter", "sam.pth")
    words[6] = "grefcoco|unc|val"
    assert "can't be evaluated; the datasets that can are png|" in wrong(*words)
    assert "can't be evaluated; the datasets that can are png|" in wrong("evaluate", *words[3:])
    monkeypatch.setattr("gella_jax.loading.load", None)  # masks themselves need no model
    words[6], words[8] = "coco_entity|val2017", "official"
    assert main(["evaluate", *map(str, words[3:]), "--masks", str(masks)]) == 0
    assert "AP    " in capsys.readouterr().out


def test_masks_of_a_file(root, tmp_path):
    """COCO's panoptic PNGs as anybody's masks: the same as the truth but for what is a crowd."""
    folder = root / "coco" / "annotations" / "panoptic_segmentation" / "val2017"
    report, _ = run(root, "png|val2017", "guided", masks=folder)
    assert report["masks"] == str(folder) and report["AR"] == pytest.approx(0.99999)
    assert mask_file(folder, "000000000139.jpg") == folder / "000000000139.png"
    assert mask_file(tmp_path / "all.json", "x.jpg") == tmp_path / "all.json"
    with pytest.raises(FileNotFoundError, match=r"there are no masks for 'x.jpg': no .*x.png or .*x.json or .*/x"):
        mask_file(folder, "x.jpg")
    assert read_masks(folder / "000000000139.png", (12, 20)).masks.any()


def test_masks_that_a_model_proposes(root):
    seen = []

    def segmenter(images):
        seen.append([image.shape for image in images])
        return whole(images)

    report, _ = run(root, "png|val2017", "guided", masks="sam.pth", segmenter=segmenter, batch_size=2)
    assert list(map(len, seen)) == [2, 1] and report["masks"] == "sam.pth"


def test_a_picture_in_which_a_segmenter_finds_nothing_is_counted(root):
    def segmenter(images):
        masks = [np.ones((int(image.shape[:2] != (20, 12)), *image.shape[:2]), bool) for image in images]
        return [types.SimpleNamespace(entities=as_entities(one)) for one in masks]

    report, _ = run(root, "png|val2017", "guided", masks="sam.pth", segmenter=segmenter)
    assert report["num_without_masks"] == 1 and report["acc@0.5"] == 0.5  # three of six


@pytest.mark.parametrize("kind", ["json", "folder"])
def test_masks_of_another_size_are_named_with_their_picture(root, tmp_path, kind):
    record, wrong = open_dataset(root, "panoptic|val2017")[1], np.ones((1, 5, 9), bool)
    if kind == "json":
        masks = tmp_path / "results.json"
        masks.write_text(json.dumps([{"image_id": record.image_id, "score": 0.5, **mask_record(wrong[0])}]))
    else:
        masks = tmp_path / "masks"
        masks.mkdir()
        for one in open_dataset(root, "panoptic|val2017"):
            Image.fromarray(np.uint8(wrong[0])).save(masks / f"{one.image.stem}.png")
    message = r"the masks of '0+\d+\.jpg': .* has 5 x 9 pixels, but the picture has \d+ x \d+"
    with pytest.raises(ValueError, match=message):
        run(root, "panoptic|val2017", "official", masks=masks)


def test_a_segment_that_is_not_in_the_png_is_named(root, tmp_path):
    shutil.copytree(root / "coco", tmp_path / "coco")
    png = tmp_path / "coco/annotations/panoptic_segmentation/val2017/000000000285.png"
    ids = np.asarray(Image.open(png)).copy()
    ids[(ids == ids[-1, 0]).all(-1)] = 0
    Image.fromarray(ids).save(png)
    with pytest.raises(
        ValueError, match=r"annotation of image 285 has the segment 65536, of which .*285\.png has no pixel"
    ):
        run(tmp_path, "png|val2017", "guided")
    narratives = json.loads((tmp_path / "coco/annotations/png_coco_val2017.json").read_text())
    narratives[0]["segments"][1]["segment_ids"] = ["77"]
    (tmp_path / "coco/annotations/png_coco_val2017.json").write_text(json.dumps(narratives))
    with pytest.raises(ValueError, match=r"png_coco_val2017\.json: narrative 0 has segment 77, which image 139 lacks"):
        run(tmp_path, "png|val2017", "guided")


def whole(images):
    """One mask for all of every picture."""
    some = [Entities(np.ones((1, *image.shape[:2]), bool), (0,), ("0",)) for image in images]
    return [types.SimpleNamespace(entities=one) for one in some]


def test_a_model_that_finds_masks_uses_its_own_and_says_so(root, monkeypatch):
    with pytest.raises(
        ValueError, match="whose masks\\? There are --masks truth, .* --masks SOURCE, .* --segmenter FILE"
    ):
        run(root, "png|val2017", "guided", masks=None)
    monkeypatch.setattr(Oracle, "segmenter", staticmethod(whole))
    report, _ = run(root, "png|val2017", "guided", masks=None)
    assert report["masks"] == "its own"
    finders = [functools.partial(lambda weights, images: whole(images), jax.numpy.ones(2) * k) for k in (1, 1, 2)]
    assert len({mask_source(None, own=finder).digest for finder in finders}) == 2  # of its weights
    assert markdown_table(report).startswith("masks: those that the model finds without help (its own)\n\n## png")


def test_masks_of_entities_need_no_model(root, tmp_path):
    """Half of every true mask: what is measured is what was put in."""
    source = open_dataset(root, "coco_entity|val2017")
    halves = []
    for record in source:
        for mask in record.entities.masks:
            half = mask & (np.cumsum(mask, 0) * 2 > mask.sum(0))
            halves.append({"image_id": record.image_id, "score": 0.5, **mask_record(half)})
    (tmp_path / "half.json").write_text(json.dumps(halves))
    report = evaluate(None, root, "coco_entity|val2017", "official", tmp_path / "a.json", masks=tmp_path / "half.json")
    assert report["output_masks"] == "input" and report["num_predicted"] == 5 and 0 <= report["AP"] < 0.2
    true = evaluate(None, root, "coco_entity|val2017", "official", masks="truth")
    assert true["AP"] == pytest.approx(1.0)
    found = evaluate(None, root, "coco_entity|val2017", "official", masks="sam.pth", segmenter=whole)
    assert found["num_predicted"] == 3 and found["masks"] == "sam.pth"
    with pytest.raises(ValueError, match="'coco_entity.val2017' with the masks that are decoded asks a model"):
        evaluate(None, root, "coco_entity|val2017", "official", masks="truth", output_masks="decoded")


def test_an_interrupted_evaluation_goes_on(root, tmp_path, monkeypatch):
    oracle = Oracle(open_dataset(root, "png|val2017"))
    calls = []

    def interrupted(requests, **options):
        calls.append(len(requests))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return Oracle.ground_many(oracle, requests, **options)

    oracle.ground_many = interrupted
    file = tmp_path / "report.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate(oracle, root, "png|val2017", "guided", out_json=file, batch_size=1, masks="truth")
    report = evaluate(oracle, root, "png|val2017", "guided", out_json=file, batch_size=1, masks="truth")
    assert calls == [1, 1, 1, 1] and report["num_phrases"] == 6
    with pytest.raises(ValueError, match="output_masks is 'both', should be input or decoded"):
        evaluate(oracle, root, "png|val2017", "guided", output_masks="both")


@pytest.mark.parametrize("changed", ["masks", "segmenter", "truth", "weights"])
def test_an_interrupted_evaluation_of_something_else_is_not_gone_on_with(root, tmp_path, changed):
    """Masks that were given, what makes them, the truth, or the model are others than before."""
    data, given, sam = tmp_path / "data", tmp_path / "given", tmp_path / "sam.pth"
    shutil.copytree(root, data)
    shutil.copytree(root / "coco/annotations/panoptic_segmentation/val2017", given)
    sam.write_bytes(b"one")
    oracle, file = Oracle(open_dataset(data, "png|val2017")), tmp_path / "report.json"

    masks = {"masks": dict(masks=given), "segmenter": dict(masks=sam, segmenter=whole)}
    masks = masks.get(changed, dict(masks="truth"))
    run = functools.partial(evaluate, oracle, data, "png|val2017", "guided", file, batch_size=1, **masks)
    answer, oracle.ground_many = oracle.ground_many, None
    with pytest.raises(TypeError):
        run()
    oracle.ground_many = answer
    if changed == "segmenter":
        sam.write_bytes(b"two")
    elif changed == "weights":
        oracle.engine.params = {"x": np.ones((1, 1), np.float32)}
    else:
        png = data / "coco/annotations/panoptic_segmentation/val2017" if changed == "truth" else given
        png = png / "000000000139.png"
        ids = np.asarray(Image.open(png)).copy()
        ids[2, 0] = ids[-1, -1]
        Image.fromarray(ids).save(png)
    what = {"segmenter": "segmenter", "weights": "model"}.get(changed, "records")
    with pytest.raises(ValueError, match=f"unfinished evaluation with {what} '.*', this one has '.*delete the file"):
        run()
    next(tmp_path.glob("*.partial.jsonl")).unlink()
    assert run()["num_phrases"] == 6


def test_generated_nouns_are_matched_with_phrases_in_order():
    nouns = [
        Noun(text, None, (j,), np.zeros(0), np.zeros((1, 1), bool))
        for j, text in enumerate(["a dog", "The dogs", "cat"])
    ]
    found = match_nouns(nouns, ["the dog", "bird", "dog", "dog"])
    assert [noun and noun.masks[0] for noun in found] == [0, None, 1, None]


def test_what_cannot_be_evaluated():
    check_dataset("png|val2017", "generated")
    with pytest.raises(ValueError, match="'grefcoco.unc.val' can't be evaluated; the datasets that can are png"):
        check_dataset("grefcoco|unc|val", "guided")
    with pytest.raises(ValueError, match="'panoptic.val2017' has no protocol 'generated'; there are official"):
        check_dataset("panoptic|val2017", "generated")
    with pytest.raises(ValueError, match="no protocol 'free'; there are official, guided, generated"):
        check_dataset("panoptic|val2017", "free")


def test_published_numbers_are_those_of_the_spec():
    text = (Path(__file__).parent.parent.parent / "docs" / "spec" / "gella.md").read_text()
    written = {*re.findall(r"\d+\.\d+", text[text.index("## (i)") : text.index("## (k)")])}
    rows = [*SYSTEMS, *ABLATIONS]
    assert {row.dataset for row in rows} <= set(TASKS)
    assert {f"{100 * value:.1f}" for row in rows for value in row.metrics.values()} <= written
    tables = collections.Counter(row.model.partition(":")[0] for row in ABLATIONS)
    assert tables == {"5a": 2, "5b": 2, "6a": 3, "6b": 3, "7": 6, "8a": 3, "8b": 3, "9": 4, "10": 2, "11": 8}


REPORT = {
    "dataset": "png|val2017", "protocol": "generated", "masks": "MASKS", "output_masks": "input",
    "num_images": 2, "num_targets": 7, "AR": 0.5, "AR_text": 0.25, "num_without_masks": 0,
}  # fmt: skip


def test_the_table_has_published_numbers_beside_ours():
    whose, _, title, _, header, _, recall, words, _, ours_above, _, ours, first, *_, notes = markdown_table(
        REPORT
    ).splitlines()
    assert whose == "masks: MASKS" and title == "## png|val2017: 2 pictures, 7 targets"
    assert header.startswith("| % | ours (generated) | GELLA-7B | GELLA-13B |") and "LISA, one run a noun |" in header
    assert recall.startswith("| AR | 50.00 | 69.80 | 71.30 |") and words.startswith("| AR_text | 25.00 | 96.10 |  |")
    assert (ours_above, ours) == ("| the paper's table: row | AR | AR_text |", "| ours (generated) | 50.00 | 25.00 |")
    assert first == "| 9: describe 0, nouns 0, ground 1 | 66.40 | 79.40 |"
    assert notes.startswith("Answered with the masks that were input. The other numbers are from the paper; an")
    assert markdown_table({**REPORT, "num_without_masks": 1}).startswith("masks: MASKS; none for 1 of 2 pictures\n")


def test_numbers_of_true_and_of_predicted_masks_never_stand_beside_each_other():
    truth = {**REPORT, "masks": "truth"}
    assert "|  |" not in markdown_table(truth) and "GELLA" not in markdown_table(truth)
    panoptic = {"dataset": "panoptic|val2017", "PQ": 0.5, "SQ": 0.5, "RQ": 0.5}
    true, predicted = (markdown_table({**report, **panoptic}) for report in (truth, REPORT))
    assert "| 8b: tested with true masks | 79.60 | 97.80 | 91.40 |" in true
    assert [line for line in true.splitlines() if re.match(r"\| \d+[ab]?:", line)] == [true.splitlines()[-3]]
    assert "79.60" not in predicted and "| 7: ResoBlend without SA | 51.80 |  | 61.30 |" in predicted
    assert "| 5a: CLIP at 336 | 53.10 | 83.30 | 63.80 |" in predicted
    assert predicted.count("epochs") == 6 and "| PQ | 50.00 |  |  |" in predicted  # of Table 4, SQ alone is legible
    entities = {"dataset": "coco_entity|val2017", "AP": 0.5}
    tables = {
        (masks, output): markdown_table({**REPORT, **entities, "masks": masks, "output_masks": output})
        for masks in ("truth", "MASKS")
        for output in ("input", "decoded")
    }
    assert [key for key, table in tables.items() if "6a: Swin-T" in table] == [("truth", "decoded")]
