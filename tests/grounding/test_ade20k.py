"""Evaluation on ADE20K: a question for every class that is there, and IoUs that are pooled by class."""

import collections
import json

import numpy as np
import pytest

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from gsva_jax.evaluation import protocols
from gsva_jax.evaluation.protocols import Prediction, PresentClasses, prepare
from gsva_jax.evaluation.run import evaluate
from tests.small_datasets import write_label_maps

pytestmark = pytest.mark.quick

DATASET = "ade20k|validation"


@pytest.fixture(scope="module")
def gsva(golden_model) -> gsva_jax.Gsva:
    return gsva_jax.load(golden_model)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """The folder of the data, and what is true of its three pictures; in the last one, everything is ignored."""
    root = tmp_path_factory.mktemp("ade20k")
    return root, write_label_maps(root, np.random.default_rng(5))[DATASET]


def test_every_class_is_a_conversation_of_its_own(gsva, tree):
    root, truth = tree
    records = [PresentClasses(record) for record in open_dataset(root, DATASET)]
    requests = [prepare(gsva.engine, "official", record) for record in records]
    for request, picture in zip(requests, truth, strict=True):
        names = [name for (name,) in picture.texts]
        texts = [gsva.engine.tokenizer.decode(text.ids) for text in request.texts]
        assert request.num_targets == len(names) and request.record.expressions == names
        for text, name in zip(texts, names, strict=bool(names)):
            assert f" What is {name} in this image? ASSISTANT: Sure, [SEG]" in text
        np.testing.assert_array_equal(request.record.masks, picture.masks)
        np.testing.assert_array_equal(request.record.ignore, ~picture.masks.any(0))
    assert requests[2].num_targets == 0 and len(requests[2].texts) == 1  # it is shown and asked for nothing


def test_pixels_are_pooled_by_class_and_ignored_ones_left_out(gsva, tree, monkeypatch):
    """Random masks, against a slow loop."""
    root, truth = tree
    answered = [np.random.default_rng(k).random(picture.masks.shape) < 0.7 for k, picture in enumerate(truth)]

    numbers = {record.image_id: number for number, record in enumerate(open_dataset(root, DATASET))}

    def answer(gsva, protocol, requests, pictures, with_absent):
        assert not with_absent
        masks = [answered[numbers[request.record.image_id]] for request in requests]
        return [Prediction(m, np.zeros(len(m), bool), np.zeros(len(m), bool), np.ones(len(m))) for m in masks]

    monkeypatch.setattr(protocols, "predict", answer)
    report = evaluate(gsva, root, DATASET, "official", batch_size=2)
    inter, union = collections.defaultdict(int), collections.defaultdict(int)
    for picture, masks in zip(truth, answered, strict=True):
        labelled = picture.masks.any(0)
        for (name,), true, mask in zip(picture.texts, picture.masks, masks, strict=True):
            for y, x in zip(*np.nonzero(labelled), strict=True):
                inter[name] += int(true[y, x] and mask[y, x])
                union[name] += int(true[y, x] or mask[y, x])
    assert any((~picture.masks.any(0)).any() for picture in truth[:2])
    assert report["mIoU"] == pytest.approx(np.mean([inter[name] / union[name] for name in union]))
    assert report["num_classes"] == len(union) == 4
    assert (report["num_images"], report["num_targets"]) == (3, sum(len(picture.masks) for picture in truth))
    assert not {"gIoU", "cIoU", "question"} & report.keys() and not any(name.endswith("]") for name in report)


def test_the_model_is_asked(gsva, tree, tmp_path):
    root, truth = tree
    out = tmp_path / "predictions.jsonl"
    report = evaluate(gsva, root, DATASET, "official", predictions=out, batch_size=3)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["expression"] for line in lines] == [name for picture in truth for (name,) in picture.texts]
    assert [line["target_area"] for line in lines] == [int(m.sum()) for picture in truth for m in picture.masks]
    ious = {
        name: sum(line["intersection"] for line in lines if line["expression"] == name)
        / sum(line["union"] for line in lines if line["expression"] == name)
        for name in {line["expression"] for line in lines}
    }
    assert 0 < report["mIoU"] == pytest.approx(np.mean([*ious.values()]))


def test_only_what_has_metrics_is_evaluated(gsva, tree):
    with pytest.raises(ValueError, match=r"'ade20k\|validation' has no protocol 'guided'; there are official"):
        evaluate(gsva, tree[0], DATASET, "guided")
    with pytest.raises(ValueError, match=r"'cocostuff\|train2017' can't be evaluated"):
        evaluate(gsva, tree[0], "cocostuff|train2017", "official")
    with pytest.raises(ValueError, match="the question 'where' is of the official protocol on datasets of expressions"):
        evaluate(gsva, tree[0], DATASET, "official", question="where")
