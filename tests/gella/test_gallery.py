"""GELLA's files of every prediction, and its page of best, worst and random pictures, on the scenes of the package."""

import base64
import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gella_jax
from gella_jax.evaluation.run import evaluate
from gella_jax.panoptic import PanopticAnswer
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.entity_masks import Entities
from grounding_jax.drawing.legend import COLOURS
from grounding_jax.files.masks import decode_mask
from tests.gella.oracle import Oracle
from tests.small_datasets import write_all

SCENES = Path(gella_jax.__file__).parent / "assets" / "scenes"


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Drawing takes the time."""
    monkeypatch.setattr("grounding_jax.evaluation.gallery.SHOWN", 1)


class Careless(Oracle):
    """The left half of what is meant."""

    def ground_many(self, requests, **options):
        answers = super().ground_many(requests, **options)
        return [dataclasses.replace(one, nouns=tuple(map(self._halve, one.nouns))) for one in answers]

    def refer_many(self, requests, output_masks):
        return list(map(self._halve, super().refer_many(requests, output_masks)))

    def panoptic_many(self, requests, categories, output_masks):
        """The first segment has the category of the last."""
        maps = super().panoptic_many(requests, categories, output_masks)
        wrong = [dataclasses.replace(one.segments[0], category=one.segments[-1].category) for one in maps]
        return [PanopticAnswer(one.ids, (first, *one.segments[1:])) for one, first in zip(maps, wrong, strict=True)]

    def entities_many(self, requests):
        """Without the second, and with the first once more."""
        return [(self._with_scores(request.entities), {}) for request in requests]

    def _with_scores(self, entities):
        masks = entities.masks[[0, 0, *range(2, len(entities.ids))]]
        scores = np.linspace(0.9, 0.1, len(masks), dtype=np.float32)
        return Entities(masks, tuple(range(len(masks))), tuple(map(str, range(len(masks)))), scores)

    def _halve(self, answer):
        columns = np.cumsum(answer.mask.any(0)) <= answer.mask.any(0).sum() // 2
        return dataclasses.replace(answer, mask=answer.mask & columns)


def run(root, dataset, protocol, out, masks="truth"):
    """The report, the predictions, and the text of the page."""
    model = Careless(open_dataset(root, dataset))
    files = out / "predictions.jsonl", out / "page.html"
    report = evaluate(model, root, dataset, protocol, predictions=files[0], gallery=files[1], masks=masks)
    return report, [json.loads(line) for line in files[0].read_text().splitlines()], files[1].read_text()


def cards(text):
    """For the numbers of the pictures on a page, the cells of every row without what is only to look at."""
    found = {}
    for card in re.findall(r"<article>.*?</article>", text, re.DOTALL):
        rows = [row.split("</td>")[:-1] for row in re.findall("<tr>(.*?)</tr>", card)[1:]]
        found[int(re.search(r"<span>(\d+) ", card)[1])] = [
            [re.sub("<.*?>", "", c).strip() for c in row] for row in rows
        ]
    return found


def test_narratives(tmp_path):
    report, predictions, text = run(SCENES, "png|val2017", "guided", tmp_path)
    assert len(predictions) == report["num_targets"] and {one["target"] for one in predictions} >= {0, 1}
    record = open_dataset(SCENES, "png|val2017")[0]
    first = predictions[0]
    assert first["image"] == record.image.name and first["caption"] == record.caption
    assert first["expression"] == record.raw_expressions[0] and tuple(first["segment_ids"]) == record.segment_ids[0]
    mask = decode_mask(first["segmentation"], record.size)
    assert first["iou"] == pytest.approx((mask & record.masks[0]).sum() / (mask | record.masks[0]).sum()) != 0
    unknown = [one for one in predictions if not one["segment_ids"]]
    assert len(unknown) == report["num_left_out"] > 0 and {one["iou"] for one in unknown} == {None}

    outside = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", outside)
    assert "guided · masks: those of the dataset itself (truth) · answered with those that were input" in outside
    assert COLOURS[0] in text and 2 <= len(cards(text)) <= 3
    for index, rows in cards(text).items():
        record = open_dataset(SCENES, "png|val2017")[index]
        assert [row[1].removesuffix(" not measured") for row in rows] == list(record.raw_expressions)
        assert [row[4] == "&ndash;" for row in rows] == ["not measured" in row[1] for row in rows]
        assert tuple("not measured" not in row[1] for row in rows) == record.grounded
        mean = float(re.search(rf">{index} · .*?mean IoU <b>([\d.]+)", text, re.DOTALL)[1])
        own = [one["iou"] for one in predictions if one["image"] == record.image.name]
        assert mean == pytest.approx(np.mean([iou for iou in own if iou is not None]), abs=0.006)
    data = re.findall(r"base64,([\w+/=]+)", text.split("<h2")[-1])[:2]
    true, predicted = (np.asarray(Image.open(io.BytesIO(base64.b64decode(one)))) for one in data)
    assert true.shape == predicted.shape == (720, 720, 3) and (true != predicted).any()


def test_a_phrase_that_was_not_named_is_listed_as_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(Careless, "_halve", lambda self, answer: dataclasses.replace(answer, text="x"))
    report, predictions, text = run(SCENES, "png|val2017", "generated", tmp_path)
    missing = [one for one in predictions if one["missing"]]
    assert len(missing) == report["num_missing"] == len(predictions) and "<blockquote>" in text
    assert {(one["iou"] or 0.0, one["score"], one["area"], one["answer"]) for one in missing} == {(0.0, 0.0, 0, "")}


def test_expressions(tmp_path):
    write_all(tmp_path / "data", 0)
    report, predictions, text = run(tmp_path / "data", "refcoco|unc|train", "generated", tmp_path)
    source = open_dataset(tmp_path / "data", "refcoco|unc|train")
    assert [one["expression"] for one in predictions] == [text for one in source for text in one.raw_expressions]
    assert [tuple(one["instance_ids"]) for one in predictions] == [ids for one in source for ids in one.instance_ids]
    assert report["mIoU"] == pytest.approx(np.mean([one["iou"] for one in predictions]), abs=1e-6)
    assert cards(text)


def test_categories(tmp_path):
    report, predictions, text = run(SCENES, "panoptic|val2017", "official", tmp_path)
    wrong = [one for one in predictions if one["target"] is None]
    assert len(wrong) == 12 and len(predictions) == report["num_targets"]
    assert {one["iou"] for one in predictions if one not in wrong} == {1.0}
    for first, *_, last in cards(text).values():
        assert first[3:] == ["&ndash;", "0.00"]
        assert last[1].endswith("matches none") and last[3:] == ["1.00", "&ndash;"]


def test_entities(tmp_path):
    report, predictions, text = run(SCENES, "coco_entity|val2017", "official", tmp_path)
    assert len(predictions) == report["num_predicted"] == report["num_targets"]
    own = [one for one in predictions if one["image_id"] == predictions[0]["image_id"]]
    assert [one["target"] for one in own] == [0, None, *range(2, len(own))]  # the better of two that are the same
    assert {tuple(rows[1][3:]) for rows in cards(text).values()} == {("&ndash;", "0.00")}
    alone = evaluate(None, SCENES, "coco_entity|val2017", "official", masks="truth", gallery=tmp_path / "alone.html")
    assert alone["AP"] == pytest.approx(1.0) and "mean IoU <b>1.00</b>" in (tmp_path / "alone.html").read_text()
