"""The page of best, worst and random pictures: which are chosen, what is said of them, and that it stands alone."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from grounding_jax.data.datasets import open_dataset
from grounding_jax.drawing.legend import COLOURS
from grounding_jax.drawing.overlay import draw_overlay, draw_targets
from grounding_jax.evaluation.gallery import SHOWN, choose
from grounding_jax.metrics.outcomes import Outcome
from gsva_jax import predict
from gsva_jax.config import ASSETS
from gsva_jax.evaluation import protocols
from gsva_jax.evaluation.gallery import picture_iou
from gsva_jax.evaluation.protocols import Prediction
from gsva_jax.evaluation.run import evaluate
from gsva_jax.loading import load

pytestmark = pytest.mark.quick

SCENES, DATASET = ASSETS / "scenes", "grefcoco|unc|testA"


def test_choice_is_by_score_without_repeats_and_the_same_each_time():
    scores = np.random.default_rng(3).permutation(100) / 100
    chosen = choose(scores.tolist())
    assert [round(100 * scores[k]) for k in chosen["best"]] == list(range(99, 99 - SHOWN, -1))
    assert [round(100 * scores[k]) for k in chosen["worst"]] == list(range(SHOWN))
    assert len({*chosen["random"]}) == SHOWN and chosen == choose(scores.tolist())
    assert abs(np.mean(chosen["random"]) - 50) < 25  # from everywhere
    assert choose([0.5, 0.5, 0.1]) == {"best": [0, 1], "worst": [2], "random": [0, 1, 2]}


def test_a_picture_counts_as_its_mean_part_of_giou():
    half, rejected = Outcome(5, 10, 10, 5), Outcome(0, 9, 9, 0, rejected=True)
    found_nothing_there = Outcome(0, 9, 9, 0)
    assert picture_iou([half, rejected, found_nothing_there]) == pytest.approx(1.5 / 3)
    assert picture_iou([]) == 0


def test_targets_are_drawn_as_on_the_overlay():
    image, mask = np.full((50, 60, 3), 90, np.uint8), np.zeros((50, 60), bool)
    mask[10:30, 20:50] = True
    target = predict.Target("the square", False, mask, 1.0)
    alone, whole = np.asarray(draw_targets(image, [target])), draw_overlay(image, [target])
    left = (whole.shape[1] - alone.shape[1]) // 2
    np.testing.assert_array_equal(alone, whole[: alone.shape[0], left : left + alone.shape[1]])
    assert whole.shape[0] > alone.shape[0] and (alone != alone[0, 0]).any()


def test_the_page_of_an_interrupted_evaluation(golden_model, tmp_path, monkeypatch):
    """Answers that get worse from picture to picture, the second batch of them after an interruption."""
    gsva, asked, stopping = load(golden_model), [], True
    numbers_of = {record.image_id: number for number, record in enumerate(open_dataset(SCENES, DATASET))}

    def answer(gsva, protocol, requests, pictures, with_absent):
        if stopping and asked:
            raise KeyboardInterrupt
        indices = [numbers_of[request.record.image_id] for request in requests]
        asked.extend(indices)
        predictions = []
        for index, request in zip(indices, requests, strict=True):
            masks = request.record.masks.copy()
            columns = np.arange(masks.shape[2]) >= masks.shape[2] * (1 - index / 24)
            rejected = request.record.rejected & (index < 6)
            predictions.append(Prediction(masks & ~columns, rejected, np.zeros(len(masks), bool), 1 - rejected))
        return predictions

    monkeypatch.setattr(protocols, "predict", answer)
    page, report = tmp_path / "page.html", tmp_path / "report.json"
    arguments = dict(gallery=page, blind=True, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        evaluate(gsva, SCENES, DATASET, "guided", report, **arguments)
    assert not page.exists()
    stopping = False
    numbers = evaluate(gsva, SCENES, DATASET, "guided", report, **arguments)
    assert sorted(asked) == list(range(12)) and {*tmp_path.iterdir()} == {page, report}

    text = page.read_text()
    outside = re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", outside)
    best, worst, drawn = (re.findall(r"<article>.*?</article>", part, re.DOTALL) for part in text.split("<h2")[1:])
    assert (len(best), len(worst), len(drawn)) == (6, 6, 12)
    means = [[float(re.search(r"mean IoU <b>([\d.]+)", card)[1]) for card in part] for part in (best, worst)]
    assert means[0] == sorted(means[0], reverse=True) and means[1] == sorted(means[1])
    assert means[0][-1] >= means[1][-1] and means[0][0] == 1.0
    assert np.mean([*means[0], *means[1]]) == pytest.approx(_mean_over_pictures(), abs=0.006)
    assert f"<b>{100 * numbers['gIoU']:.1f}</b><span>gIoU</span>" in text and "guided · grey pictures" in text

    record = open_dataset(SCENES, DATASET)[0]
    card = next(card for card in drawn if record.image.name in card)
    cells = [re.sub("<.*?>", " ", row).split() for row in re.findall("<tr>(.*?)</tr>", card)[1:]]
    for k, (row, expression, absent) in enumerate(zip(cells, record.expressions, record.rejected, strict=True)):
        said = [*expression.split(), *(["not", "there", "[REJ]", "0.00"] if absent else ["[SEG]", "1.00"])]
        assert row == [str(k + 1), *said, "&ndash;" if absent else "1.00"] and COLOURS[k] in card
    sizes = []
    for data in re.findall(r"base64,([\w+/=]+)", card):
        with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
            sizes.append(picture.size)
    assert sizes == [(720, 720)] * 2


def _mean_over_pictures() -> float:
    """What the pictures' IoUs must be on average, target by target."""
    means = []
    for index, record in enumerate(open_dataset(SCENES, DATASET)):
        ious = []
        for mask, absent in zip(record.masks, record.rejected, strict=True):
            kept = mask[:, : int(np.ceil(mask.shape[1] * (1 - index / 24)))]
            ious.append(float(index < 6) if absent else kept.sum() / mask.sum())
        means.append(np.mean(ious))
    return float(np.mean(means))
