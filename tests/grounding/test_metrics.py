"""Metrics against the release's and ReLA's evaluators, and what they must be by definition."""

import dataclasses
import json

import numpy as np
import pytest

from grounding_jax.metrics.gres import GresTotals, grefcoco_metrics, refzom_metrics
from grounding_jax.metrics.outcomes import Outcome, compare_masks
from grounding_jax.metrics.res import ResTotals, res_metrics
from grounding_jax.metrics.semantic import ClassTotals, semantic_metrics

pytestmark = pytest.mark.quick

CASES = ("a0", "a1", "a_perfect", "a_all_empty_pred")


@pytest.fixture(scope="module")
def reference(golden):
    return json.loads((golden / "gsva" / "metrics" / "metrics.json").read_text())


def images_of(golden, reference, case):
    """(logits, true masks, decisions) of the pictures of a case."""
    stored = np.load(golden / "gsva" / "metrics" / f"{case}.npz")
    for index in range(reference["cases"][case]["n_images"]):
        ids = stored[f"ids_{index}"]
        rejected = ids[(ids == reference["seg_id"]) | (ids == reference["rej_id"])] == reference["rej_id"]
        yield stored[f"pred_{index}"], stored[f"gt_{index}"].astype(bool), rejected


@pytest.mark.parametrize("case", CASES)
def test_metrics_with_absent_targets(golden, reference, case):
    totals = GresTotals()
    for logits, target, rejected in images_of(golden, reference, case):
        totals += GresTotals.of(compare_masks(logits >= 0, target, rejected))
    expected = reference["cases"][case]
    results = grefcoco_metrics(totals)
    for name, value in expected["eval_gres[grefcoco]"].items():
        assert results[name] == pytest.approx(value, abs=1e-6)
    rela = expected["ReLA_ReferEvaluator"]
    for name in ("gIoU", "cIoU"):
        assert results[f"rela_{name}"] == pytest.approx(rela[name] / 100, abs=1e-6)
    for name in ("Pr@0.7", "Pr@0.8", "Pr@0.9"):
        assert results[name] == pytest.approx(rela[name] / 100, abs=1e-6)
    assert (results["N_acc"], results["T_acc"]) == pytest.approx((rela["N_acc"], rela["T_acc"]), abs=1e-6)
    results = refzom_metrics(totals)
    for name, value in expected["eval_gres[refzom]"].items():
        assert results[name] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_metrics_without_decisions(golden, reference, case):
    totals = ResTotals()
    for logits, target, _ in images_of(golden, reference, case):
        totals += ResTotals.of(compare_masks(logits > 0, target))
    metrics = res_metrics(totals)
    released = reference["cases"][case]["validate"]
    assert {name: metrics[name] for name in released} == pytest.approx(released, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_numbers_of_the_papers_ref_zom_by_their_definition(golden, reference, case):
    """mIoU and oIoU over present targets, Acc over absent ones with an empty mask (spec gsva f.3)."""
    ious, inter, union, empty = [], 0, 0, []
    totals = GresTotals()
    for logits, target, rejected in images_of(golden, reference, case):
        totals += GresTotals.of(compare_masks(logits >= 0, target, rejected))
        for mask, true, no in zip(logits >= 0, target, rejected, strict=True):
            if true.any():
                ious.append((mask & true).sum() / (mask | true).sum())
                inter, union = inter + (mask & true).sum(), union + (mask | true).sum()
            else:
                empty.append(no or not mask.any())
    results = refzom_metrics(totals)
    expected = (np.mean(ious), inter / union, np.mean(empty))
    assert (results["mIoU"], results["oIoU"], results["Acc"]) == pytest.approx(expected, abs=1e-6)


def test_order_and_partition_do_not_matter(golden, reference):
    outcomes = [
        outcome
        for logits, target, rejected in images_of(golden, reference, "a1")
        for outcome in compare_masks(logits >= 0, target, rejected)
    ]
    whole = grefcoco_metrics(GresTotals.of(outcomes))
    parts = GresTotals.of(outcomes[20:]) + GresTotals.of(outcomes[:7]) + GresTotals.of(outcomes[7:20])
    assert grefcoco_metrics(parts) == pytest.approx(whole)
    kept = [json.loads(json.dumps(dataclasses.asdict(outcome))) for outcome in outcomes]
    assert [Outcome(**numbers) for numbers in kept] == outcomes
    res_parts = ResTotals.of(outcomes[10:]) + ResTotals.of(outcomes[:10])
    assert res_metrics(res_parts) == pytest.approx(res_metrics(ResTotals.of(outcomes)))


def test_every_row_of_the_official_table():
    """One target of each kind (spec gsva f.2): absent and present, rejected and kept."""
    true = np.zeros((4, 4, 4), bool)
    true[2:, :2] = True
    predicted = np.zeros((4, 4, 4), bool)
    predicted[:, :, :2] = True
    outcomes = compare_masks(predicted, true, np.array([True, False, True, False]))
    results = grefcoco_metrics(GresTotals.of(outcomes))
    iou = 4 / 12
    assert results["gIoU"] == pytest.approx((1 + 0 + iou + iou) / 4, abs=1e-5)
    assert results["cIoU"] == pytest.approx((4 + 4) / (8 + 12 + 12))
    assert results["rela_gIoU"] == pytest.approx((1 + 0 + 0 + iou) / 4)
    assert results["rela_cIoU"] == pytest.approx(4 / (8 + 12 + 12))
    assert (results["N_acc"], results["T_acc"], results["Pr@0.5"]) == (0.5, 0.5, 0.0)
    results = refzom_metrics(GresTotals.of(outcomes))
    assert results["cIoU"] == results["oIoU"] == pytest.approx((4 + 4) / (12 + 12))
    assert results["mIoU"] == pytest.approx(iou) and results["Acc"] == 0.5


def test_missing_answers_are_wrong_for_both_accuracies():
    true = np.zeros((2, 3, 3), bool)
    true[1] = True
    outcomes = compare_masks(np.ones_like(true), true, missing=np.array([True, True]))
    assert [outcome.predicted for outcome in outcomes] == [0, 0]
    results = grefcoco_metrics(GresTotals.of(outcomes))
    assert results == pytest.approx({**dict.fromkeys(results, 0.0)})
    assert refzom_metrics(GresTotals.of(outcomes))["Acc"] == 0.0


def test_nothing_to_average_is_none():
    assert set(grefcoco_metrics(GresTotals()).values()) == {None}
    assert set(refzom_metrics(GresTotals()).values()) == {None}
    assert set(res_metrics(ResTotals()).values()) == {None}
    present = GresTotals.of([Outcome(1, 1, 1, 1)])
    assert grefcoco_metrics(present)["N_acc"] is None and grefcoco_metrics(present)["T_acc"] == 1.0
    absent = GresTotals.of([Outcome(0, 0, 0, 0, rejected=True)])
    assert grefcoco_metrics(absent)["T_acc"] is None and refzom_metrics(absent)["mIoU"] is None
    assert json.loads(json.dumps(grefcoco_metrics(present)))["N_acc"] is None


def test_ignored_pixels_do_not_count():
    """ReasonSeg as LISA counts, and as the release does (spec gsva f.4, h 8)."""
    target = np.zeros((1, 2, 4), bool)
    target[0, 0, :2] = True
    ignore = np.zeros((2, 4), bool)
    ignore[1] = True
    predicted = np.ones((1, 2, 4), bool)
    lisa = res_metrics(ResTotals.of(compare_masks(predicted, target, ignore=ignore)))
    release = res_metrics(ResTotals.of(compare_masks(predicted, target | ignore)))
    assert lisa["cIoU"] == pytest.approx(2 / 4) and release["cIoU"] == pytest.approx(6 / 8)


def test_masks_of_one_picture_stay_paired():
    """An absent target keeps its place, so that later masks meet their own target (spec gsva h 28)."""
    target = np.zeros((3, 2, 2), bool)
    target[0, 0, 0] = target[2, 1, 1] = True
    outcomes = compare_masks(target, target, np.array([False, True, False]))
    assert [outcome.iou for outcome in outcomes] == [1.0, 0.0, 1.0]
    assert res_metrics(ResTotals.of(outcomes))["gIoU"] == pytest.approx(1.0, abs=1e-4)


def test_what_papers_report_on_refcoco():
    """Mean IoU, overall IoU, and the shares of targets above a bound, against the definitions."""
    outcomes = [Outcome(intersection=i, union=u, predicted=i, target=u) for i, u in ((9, 10), (3, 5), (0, 4), (5, 10))]
    metrics = res_metrics(ResTotals.of(outcomes))
    assert metrics["mIoU"] == pytest.approx((0.9 + 0.6 + 0 + 0.5) / 4, abs=1e-5)
    assert metrics["oIoU"] == pytest.approx(17 / 29)
    assert [metrics[f"Pr@{bound}"] for bound in (0.5, 0.7, 0.8, 0.9)] == [0.75, 0.25, 0.25, 0.25]


def test_iou_of_classes_is_pooled_before_it_is_averaged():
    """Spec gsva f.5; the sums of two halves of a dataset add up."""
    outcomes = [Outcome(*sums, predicted=0, target=1) for sums in ((9, 10), (1, 10), (0, 4), (6, 8), (0, 0))]
    names = ["sky", "sky", "tree", "sky", "sea"]
    metrics = semantic_metrics(ClassTotals.of(outcomes, names))
    assert metrics == {"mIoU": pytest.approx((16 / 28 + 0 / 4) / 2), "num_classes": 2}
    halves = ClassTotals.of(outcomes[:2], names[:2]) + ClassTotals.of(outcomes[2:], names[2:])
    assert semantic_metrics(halves) == metrics
    assert semantic_metrics(ClassTotals()) == {"mIoU": None, "num_classes": 0}


def test_shapes_that_do_not_agree():
    with pytest.raises(ValueError, match="do not agree"):
        compare_masks(np.zeros((2, 3, 3), bool), np.zeros((3, 3, 3), bool))
    with pytest.raises(ValueError, match="2 targets, but decisions"):
        compare_masks(np.zeros((2, 3, 3), bool), np.zeros((2, 3, 3), bool), np.zeros(3, bool))
