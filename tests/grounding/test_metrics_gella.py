"""Metrics of entity grounding against the benchmarks' evaluators, and what they must be by definition."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from grounding_jax.files.masks import decode_mask, encode_mask, mask_record
from grounding_jax.metrics.entities import coco_entities, entity_metrics
from grounding_jax.metrics.narrative import (
    NarrativeTotals,
    Phrase,
    RecallTotals,
    average_recall,
    compare_phrase,
    narrative_metrics,
)
from grounding_jax.metrics.outcomes import Outcome, compare_masks
from grounding_jax.metrics.panoptic import PanopticSegments, PanopticTotals, compare_panoptic, panoptic_metrics
from grounding_jax.metrics.res import ResTotals, refcoco_metrics
from grounding_jax.metrics.words import WordTotals, normalize, word_metrics

pytestmark = pytest.mark.quick

# The golden's names of the splits, and ours.
SPLITS = {
    "overall": "AR",
    "things": "AR_things",
    "stuff": "AR_stuff",
    "singulars": "AR_singulars",
    "plurals": "AR_plurals",
}


def read(folder, name):
    return json.loads((folder / name).read_text())


def unpacked(masks, width):
    return np.unpackbits(masks, axis=-1, count=width).astype(bool)


# Average recall of narrative grounding.


def test_average_recall_to_the_bit(golden):
    folder = golden / "gella" / "metric_png_ar"
    stored, expected = np.load(folder / "random_ious.npz"), read(folder, "random_ious_expected.json")
    ious, singular, thing = (stored[name] for name in ("iou", "singular", "thing"))
    assert np.isnan(ious).any()  # which counts, and reaches nothing
    every = np.ones(len(ious), bool)
    splits = {"overall": every, "things": thing, "stuff": ~thing, "singulars": singular, "plurals": ~singular}
    recalls = {name: average_recall(RecallTotals.of(ious[chosen])) for name, chosen in splits.items()}
    assert recalls == {name: expected[name] for name in splits}
    totals = RecallTotals.of(ious)
    assert totals.found / totals.num == expected["acc_at_0_5_strict"]


def golden_phrases(golden):
    """The phrases of the evaluator's inputs, with masks chosen from word scores by the baseline's rule."""
    stored = np.load(golden / "gella" / "metric_png_ar" / "evaluator_inputs.npz")
    instances, targets = unpacked(stored["instances"], 32), unpacked(stored["gt"], 32)
    for picture, (scores, words) in enumerate(zip(stored["word_scores"], stored["noun_phrases"], strict=True)):
        kinds = zip(stored["ann_types"][picture], stored["ann_categories"][picture], strict=True)
        for phrase, (num_segments, category) in enumerate(kinds):
            if num_segments:
                score = scores[words[:, phrase].astype(bool)].mean(axis=0)
                chosen = [score.argmax()] if num_segments == 1 else 1 / (1 + np.exp(-score)) > 0.1
                target = np.repeat(targets[picture, phrase][None], num_segments, axis=0)
                yield compare_phrase(instances[picture][chosen], target, [category == 1] * num_segments)


def test_evaluator_of_narratives(golden):
    expected = read(golden / "gella" / "metric_png_ar", "evaluator_expected.json")
    phrases = list(golden_phrases(golden))
    in_order = [phrase for number in (1, 2) for phrase in phrases if phrase.num_segments == number]
    assert [float(np.float32(phrase.iou)) for phrase in in_order] == expected["ious"]["overall"]
    metrics = narrative_metrics(NarrativeTotals.of(phrases))
    assert {name: metrics[ours] for name, ours in SPLITS.items()} == expected["average"]


def test_a_phrase_is_the_union_of_its_masks():
    target = np.zeros((2, 4, 4), bool)
    target[0, :2], target[1, 1:3] = True, True
    predicted = np.zeros((3, 4, 4), bool)
    predicted[0, 0], predicted[2, 1:4] = True, True
    phrase = compare_phrase(predicted, target, [False, True])
    assert phrase == Phrase(intersection=12, union=16, num_segments=2, is_thing=True)
    assert Phrase(**json.loads(json.dumps(dataclasses.asdict(phrase)))) == phrase
    assert compare_phrase(predicted[:0], target, [True, False]) == Phrase(0, 12, 2, False)
    with pytest.raises(ValueError, match="do not agree"):
        compare_phrase(predicted[:, 1:], target, [True, True])
    with pytest.raises(ValueError, match="2 segments, but 1 of them"):
        compare_phrase(predicted, target, [True])


def test_ends_of_average_recall():
    assert average_recall(RecallTotals.of([1.0])) == pytest.approx(0.99999, abs=1e-12)
    assert average_recall(RecallTotals.of([0.0])) == pytest.approx(1e-5, abs=1e-12)
    assert average_recall(RecallTotals.of([math.nan])) == 0
    assert math.isnan(average_recall(RecallTotals.of([])))
    assert RecallTotals.of([0.5, 0.50001]).found == 1


def test_phrases_without_segments_are_left_out():
    phrases = [Phrase(5, 5, 1, True), Phrase(0, 7, 0, False), Phrase(0, 0, 1, True)]
    metrics = narrative_metrics(NarrativeTotals.of(phrases))
    assert metrics["AR"] == metrics["AR_things"] == metrics["AR_singulars"] == pytest.approx(0.99999 / 2)
    assert metrics["AR_stuff"] is None and metrics["AR_plurals"] is None
    assert (metrics["acc@0.5"], metrics["num_phrases"], metrics["num_left_out"]) == (0.5, 2, 1)
    assert json.loads(json.dumps(narrative_metrics(NarrativeTotals())))["AR"] is None


def test_parts_of_narratives_add_up(golden):
    phrases = list(golden_phrases(golden))
    parts = NarrativeTotals.of(phrases[9:]) + NarrativeTotals.of(phrases[:2]) + NarrativeTotals.of(phrases[2:9])
    assert narrative_metrics(parts) == narrative_metrics(NarrativeTotals.of(phrases))


# RefCOCO.


def test_refcoco(golden):
    folder = golden / "gella" / "metric_refcoco"
    stored, expected = np.load(folder / "inputs.npz"), read(folder, "expected.json")
    outcomes = compare_masks(unpacked(stored["pred"], 24), unpacked(stored["gt"], 24))
    assert [outcome.intersection for outcome in outcomes] == expected["intersections"]
    assert [outcome.union for outcome in outcomes] == expected["unions"]
    assert np.mean([outcome.iou for outcome in outcomes]) == expected["mIoU_empty_union_as_0"]
    metrics = refcoco_metrics(ResTotals.of(outcomes))
    assert metrics.pop("cIoU") == expected["cIoU_overall"]
    assert metrics.pop("mIoU") == pytest.approx(expected["gIoU_lisa"], abs=1e-15)  # order of a sum
    assert metrics == {f"Pr@{bound}": value for bound, value in expected["precision_at"].items()}


def test_refcoco_counts_only_what_is_above_a_bound():
    outcomes = [Outcome(i, u, predicted=i, target=u) for i, u in ((1, 2), (3, 5), (4, 5), (9, 10), (1, 1))]
    metrics = refcoco_metrics(ResTotals.of(outcomes))
    assert [metrics[f"Pr@{bound}"] for bound in (0.5, 0.6, 0.7, 0.8, 0.9)] == [0.8, 0.6, 0.6, 0.4, 0.2]
    assert refcoco_metrics(ResTotals.of(outcomes[3:]) + ResTotals.of(outcomes[:3])) == pytest.approx(metrics)
    assert set(refcoco_metrics(ResTotals()).values()) == {None}


# Panoptic quality.

CATEGORIES = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 9, "name": "sky", "isthing": 0}]


def golden_panoptic(folder, side):
    for annotation in read(folder, f"{side}.json")["annotations"]:
        colors = np.asarray(Image.open(folder / side / annotation["file_name"])).astype(np.int32)
        yield annotation["image_id"], PanopticSegments(colors @ [1, 256, 65536], annotation["segments_info"])


def panoptic_totals(folder, categories):
    """The sums of each picture of the golden."""
    pairs = zip(golden_panoptic(folder, "pred"), golden_panoptic(folder, "gt"), strict=True)
    return [compare_panoptic(predicted, target, categories, image) for (image, predicted), (_, target) in pairs]


def pooled(parts):
    return sum(parts, PanopticTotals())


def test_panoptic_quality(golden):
    folder = golden / "gella" / "metric_pq"
    expected, categories = read(folder, "expected.json"), read(folder, "gt.json")["categories"]
    totals = pooled(panoptic_totals(folder, categories))
    for category, counts in expected["counts"].items():
        sums = {"tp": totals.matched, "fp": totals.surplus, "fn": totals.missed}
        assert {name: sums[name][int(category)] for name in sums} == {name: counts[name] for name in sums}
        assert totals.iou[int(category)] == counts["iou"]
    metrics = panoptic_metrics(totals, categories)
    for category in categories:
        for name, value in expected["per_class"][str(category["id"])].items():
            assert metrics[f"{name.upper()}[{category['name']}]"] == value
    assert metrics["num_classes"] == expected["All"]["n"]
    for split, suffix in (("All", ""), ("Things", "_things"), ("Stuff", "_stuff")):
        for name in ("pq", "sq", "rq"):
            assert metrics[f"{name.upper()}{suffix}"] == expected[split][name]


def test_parts_of_panoptic_quality_add_up(golden):
    folder = golden / "gella" / "metric_pq"
    categories = read(folder, "gt.json")["categories"]
    parts = panoptic_totals(folder, categories)
    whole, turned = (panoptic_metrics(pooled(order), categories) for order in (parts, parts[::-1]))
    assert turned == pytest.approx(whole)


def test_a_perfect_panoptic_segmentation(golden):
    folder = golden / "gella" / "metric_pq"
    categories = read(folder, "gt.json")["categories"]
    parts = []
    for image, target in golden_panoptic(folder, "gt"):
        parts.append(compare_panoptic(target, target, categories, image))
        renamed = PanopticSegments(
            target.ids * 3, [{**segment, "id": segment["id"] * 3} for segment in target.segments]
        )
        assert compare_panoptic(renamed, target, categories, image) == parts[-1]
    metrics = panoptic_metrics(pooled(parts), categories)
    assert {metrics[name] for name in ("PQ", "SQ", "RQ", "PQ_things", "RQ_stuff", "PQ[c3]")} == {1.0}


def panoptic(rows, *segments):
    """A panoptic segmentation from rows of digits and (id, category, iscrowd)."""
    ids = np.array([list(map(int, row)) for row in rows])
    infos = [
        {"id": i, "category_id": category, "iscrowd": crowd, "area": int((ids == i).sum())}
        for i, category, crowd in segments
    ]
    return PanopticSegments(ids, infos)


def test_void_and_crowds_excuse():
    target = panoptic(["1111", "2222", "0000"], (1, 7, 0), (2, 7, 1))
    predicted = panoptic(["1112", "3332", "3344"], (1, 7, 0), (2, 7, 0), (3, 7, 0), (4, 9, 0))
    totals = compare_panoptic(predicted, target, CATEGORIES, 0)
    assert (totals.iou, totals.matched) == ({7: 0.75}, {7: 1})
    # 2 has half of its pixels on the crowd, which is not more than half; 3 is on the crowd and void, 4 on void.
    assert (totals.missed, totals.surplus) == ({}, {7: 1})
    metrics = panoptic_metrics(totals, CATEGORIES)
    assert (metrics["PQ"], metrics["SQ"], metrics["RQ"]) == (0.5, 0.75, pytest.approx(2 / 3))
    assert (metrics["num_classes"], metrics["PQ_stuff"], metrics["PQ[sky]"]) == (1, None, None)
    assert panoptic_metrics(PanopticTotals(), CATEGORIES)["PQ"] is None


def test_only_the_last_crowd_of_a_category_excuses():
    predicted = panoptic(["1122"], (1, 7, 0), (2, 7, 0))
    totals = compare_panoptic(predicted, panoptic(["1122"], (1, 7, 1), (2, 7, 1)), CATEGORIES, 0)
    assert totals == PanopticTotals(surplus={7: 1})


def test_what_is_wrong_with_a_panoptic_segmentation():
    good = panoptic(["1122"], (1, 7, 0), (2, 9, 0))
    wrong = {
        "picture 41: the prediction has pixels of segment 2,": panoptic(["1122"], (1, 7, 0)),
        "picture 41: the prediction lists segment 3, which has no": panoptic(["11"] * 2, (1, 7, 0), (3, 7, 0)),
        "picture 41: the prediction has segment 1 of the unknown category 5": panoptic(["1111"], (1, 5, 0)),
        "picture 41: the prediction lists segment 1 more than": panoptic(["1111"], (1, 7, 0), (1, 9, 0)),
    }
    for message, bad in wrong.items():
        shaped = PanopticSegments(bad.ids.reshape(good.ids.shape), bad.segments)
        with pytest.raises(ValueError, match=message):
            compare_panoptic(shaped, good, CATEGORIES, 41)
        with pytest.raises(ValueError, match=message.replace("prediction", "truth")):
            compare_panoptic(good, shaped, CATEGORIES, 41)
    with pytest.raises(ValueError, match=r"picture 41: ids of shapes \(4, 1\).*do not agree"):
        compare_panoptic(PanopticSegments(good.ids.T, good.segments), good, CATEGORIES, 41)


# Class-agnostic average precision and recall.


@pytest.fixture(scope="module")
def entities(golden):
    """(images, targets, predicted masks, expected numbers)."""
    folder = golden / "gella" / "metric_coco_agnostic"
    truth = read(folder, "gt.json")
    return truth["images"], truth["annotations"], read(folder, "detections.json"), read(folder, "expected.json")


def test_class_agnostic_precision_and_recall(entities, capsys):
    images, targets, predicted, expected = entities
    before = json.dumps([targets, predicted])
    metrics = entity_metrics(images, targets, predicted)
    assert metrics == {name: None if value == -1 else value for name, value in expected["stats"].items()}
    assert json.dumps([targets, predicted]) == before and capsys.readouterr().out == ""
    turned = entity_metrics(images[::-1], targets[::-1], predicted[::-1])
    assert turned == pytest.approx(metrics)


def test_perfect_entities_and_none(entities):
    images, targets, _, _ = entities
    perfect = [{**target, "score": 1.0} for target in targets if not target["iscrowd"]]
    metrics = entity_metrics(images, targets, perfect)
    assert metrics["AP"] == pytest.approx(1) and metrics["AR@100"] == 1
    metrics = entity_metrics(images, targets, [])
    assert (metrics["AP"], metrics["AR@100"], metrics["APl"]) == (0, 0, None)
    assert set(entity_metrics([], [], []).values()) == {None}


def test_entities_of_another_picture_or_size(entities):
    images, targets, predicted, _ = entities
    with pytest.raises(ValueError, match="a target is of picture 1, which is not among"):
        entity_metrics(images[1:], [{**targets[0], "image_id": 1}], [])
    small = {**predicted[0], "segmentation": encode_mask(np.ones((4, 5), bool))}
    with pytest.raises(ValueError, match=r"a predicted mask of picture 1 has size \[4, 5\], not \[160, 200\]"):
        entity_metrics(images, targets, [small])


def test_masks_in_cocos_encodings(golden):
    stored = read(golden / "gella" / "metric_coco_agnostic", "rle.json")
    for index, rows in enumerate(stored["masks"]):
        mask = np.array(rows, bool)
        record = mask_record(mask)
        assert record["segmentation"]["counts"] == stored["compressed"][index]
        assert (record["area"], record["bbox"]) == (stored["area"][index], stored["bbox"][index])
        for counts in (stored["compressed"][index], stored["uncompressed"][index]):
            decoded = decode_mask({"size": list(mask.shape), "counts": counts}, mask.shape)
            np.testing.assert_array_equal(decoded, mask)
    united = decode_mask(stored["polygons"], tuple(stored["polygon_size"]))
    assert encode_mask(united)["counts"] == stored["polygon_merged_rle"]
    assert united.sum() == stored["polygon_area"]


def test_entities_of_a_panoptic_picture():
    """Crowds are none, and their size is that of the box between the outermost pixels."""
    target = panoptic(["1120", "1133", "1003"], (1, 7, 0), (2, 7, 1), (3, 9, 0))
    found = coco_entities(target.ids, target.segments, image_id=5)
    assert [(entity["image_id"], entity["area"], entity["iscrowd"]) for entity in found] == [(5, 2, 0), (5, 1, 0)]
    np.testing.assert_array_equal(decode_mask(found[0]["segmentation"], (3, 4)), target.ids == 1)
    image = {"id": 5, "height": 3, "width": 4}
    assert entity_metrics([image], found, [{**entity, "score": 1.0} for entity in found])["APs"] == pytest.approx(1)


# Nouns of captions.


def test_nouns_are_compared_without_articles_and_number():
    pairs = {
        "The Dogs": "dog",
        "the man's T-shirts": "man t shirt",
        "his glasses": "glass",
        "two ladies": "two lady",
        "a bus": "bus",
        "An umbrella.": "umbrella",
        "Boys’ bench": "boy bench",
        "the": "the",
    }
    assert {noun: normalize(noun) for noun in pairs} == pairs


def test_recall_of_nouns():
    first = WordTotals.of_caption(["a dog", "red cars", "the sky"], ["Dogs", "blue car", "sky", "sky"])
    second = WordTotals.of_caption(["bottles of water", "lamp"], ["a plastic bottle"])
    nothing = WordTotals.of_caption(["tree"], [])
    metrics = word_metrics(first + second + nothing)
    assert metrics["AR_text"] == pytest.approx((2 / 4 + 0) / 2)
    assert metrics["AR_text_relaxed"] == pytest.approx((2.5 / 4 + 0.5) / 2)
    assert (metrics["text_recall"], metrics["text_precision"], metrics["text_F1"]) == (2 / 5, 2 / 6, 4 / 11)
    assert word_metrics(nothing + second + first) == pytest.approx(metrics)


def test_perfect_lists_of_nouns_and_none():
    nouns = ["dog", "a dog", "grass", "people"]
    assert set(word_metrics(WordTotals.of_caption(nouns[::-1], nouns)).values()) == {1.0}
    assert set(word_metrics(WordTotals()).values()) == {None}
    assert word_metrics(WordTotals.of_caption(["dog"], nouns))["AR_text"] == 1 / 4  # each dog is to be named
