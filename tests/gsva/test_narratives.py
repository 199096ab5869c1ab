"""Evaluation on captions: GSVA and LISA are asked for every phrase alone, and measured as GELLA is."""

import json

import numpy as np
import pytest

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from grounding_jax.metrics.narrative import NarrativeTotals, Phrase, narrative_metrics
from gsva_jax.evaluation import protocols
from gsva_jax.evaluation.protocols import GroundedPhrases, Prediction, prepare
from gsva_jax.evaluation.run import evaluate
from tests.small_panoptic import PHRASES, write_narratives, write_panoptic_tree

pytestmark = pytest.mark.quick

DATASET = "png|val2017"
NAMES = [["two people", "a wall", "people"], ["a dog", "clouds", "sky"], []]  # "the dog" means nothing


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("narratives")
    write_panoptic_tree(root)
    write_narratives(root)
    return root


@pytest.fixture(scope="module")
def gsva(golden_model) -> gsva_jax.Gsva:
    return gsva_jax.load(golden_model)


@pytest.mark.parametrize(
    ("protocol", "asked"),
    [
        ("official", " What is {} in this image? Please output segmentation mask. ASSISTANT: [SEG]"),
        ("guided", "\nWhat is {} in this image? Please output segmentation mask. ASSISTANT: Sure, it is [SEG]."),
        ("generated", "\nWhat is {} in this image? Please output segmentation mask. ASSISTANT:"),
    ],
)
def test_every_phrase_is_a_conversation_of_its_own(gsva, root, protocol, asked):
    for record, names in zip(open_dataset(root, DATASET), NAMES[:2], strict=False):
        request = prepare(gsva.engine, protocol, GroundedPhrases(record))
        assert request.record.expressions == names and request.num_targets == len(names)
        for text, name in zip(request.texts, names, strict=True):
            ids = text.text.ids if protocol == "generated" else text.ids
            assert asked.format(name) in gsva.engine.tokenizer.decode(ids)


def test_phrases_are_measured_as_those_of_gella(gsva, root, tmp_path, monkeypatch):
    """Random masks, and of each picture the last phrase is rejected, against a slow loop."""
    answers = {}

    def answer(gsva, protocol, requests, pictures, with_absent):
        assert not with_absent
        predictions = []
        for request in requests:
            masks = np.random.default_rng(request.record.image_id).random(request.record.masks.shape) < 0.7
            rejected = np.arange(len(masks)) == len(masks) - 1
            masks[rejected] = False
            answers[request.record.image_id] = masks
            predictions.append(Prediction(masks, rejected, np.zeros(len(masks), bool), np.ones(len(masks))))
        return predictions

    monkeypatch.setattr(protocols, "predict", answer)
    listed = tmp_path / "predictions.jsonl"
    report = evaluate(gsva, root, DATASET, "guided", predictions=listed, gallery=tmp_path / "page.html")
    phrases = []
    for record, truth in zip(open_dataset(root, DATASET), PHRASES, strict=True):
        grounded = [(ids, is_thing) for _, _, ids, is_thing in truth if ids]
        for mask, (ids, is_thing) in zip(answers.get(record.image_id, ()), grounded, strict=False):
            true = np.isin(record.id_map, ids)
            phrases.append(Phrase(int((mask & true).sum()), int((mask | true).sum()), len(ids), is_thing))
    wanted = narrative_metrics(NarrativeTotals.of(phrases))
    assert len(phrases) == 6 and wanted.pop("num_left_out") == 0
    assert {name: report[name] for name in wanted} == wanted and 0 < report["AR_plurals"] < 1
    assert report["num_targets"] == 6 and report["num_left_out"] == 1 and report["num_images"] == 3
    assert report["T_acc"] == pytest.approx(4 / 6)
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [line["expression"] for line in lines] == [*NAMES[0], *NAMES[1]]
    assert "clouds" in (tmp_path / "page.html").read_text()


def test_the_model_is_asked(gsva, root):
    """A caption without a phrase is not."""
    report = evaluate(gsva, root, DATASET, "guided", batch_size=2)
    assert report["num_images"] == 3 and 0 <= report["AR"] <= 1 and report["num_phrases"] == 6
