"""The model in the package: it does on the committed scenes what docs/tiny.md says it does."""

import json

import numpy as np
import pytest

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from grounding_jax.files.masks import decode_mask
from grounding_jax.files.pictures import open_picture
from grounding_jax.metrics.outlines import boundary_f_score, has_speck
from gsva_jax.cli.demo import PICTURES
from gsva_jax.config import ASSETS
from gsva_jax.evaluation.run import evaluate
from gsva_jax.tiny.vocabulary import tiny_tokenizer
from gsva_jax.training.experiment import load_config


@pytest.fixture(scope="module")
def tiny() -> gsva_jax.Gsva:
    return gsva_jax.load("tiny")


def test_it_is_what_its_config_makes(tiny):
    assert tiny.engine.config == load_config("gsva_tiny_fine").recipe.model
    assert tiny.engine.tokenizer.backend.to_str() == tiny_tokenizer().backend.to_str()
    assert sum(path.stat().length for path in (ASSETS / "tiny").iterdir()) <= 12e6


def test_it_finds_what_is_there_and_refuses_what_is_not(tiny):
    report = evaluate(tiny, ASSETS / "scenes", "grefcoco|unc|testA", "generated", batch_size=12)
    assert report["num_images"] == 12
    assert report["num_missing"] == report["num_surplus"] == 0
    assert report["gIoU"] >= 0.8 and report["N_acc"] >= 0.95 and report["T_acc"] >= 0.95
    blind = evaluate(tiny, ASSETS / "scenes", "grefcoco|unc|testA", "guided", batch_size=12, blind=True)
    assert (blind["N_acc"] + blind["T_acc"]) / 2 <= 0.6


def test_its_outlines_are_fine(tiny):
    scores = []
    for record in open_dataset(ASSETS / "scenes", "grefcoco|unc|testA"):
        for target, mask in zip(
            tiny.segment(open_picture(record.image), record.expressions).targets, record.masks, strict=True
        ):
            if mask.any() and not target.rejected:
                scores.append(boundary_f_score(target.mask, mask))
                assert not has_speck(target.mask), target.expression
    assert len(scores) > 30 and np.mean(scores) >= 0.8


def test_the_demo_is_right(tiny):
    """What is said of its photograph is measured; the one thing that is not there is refused on both pictures."""
    truth = json.loads((ASSETS / "photo_scene.json").read_text())
    masks = {
        one["text"]: decode_mask(one["segmentation"], (truth["height"], truth["width"])) for one in truth["expressions"]
    }
    masks["the watermelon"] = masks["all watermelons"]
    answers = {name: tiny.segment(open_picture(file), expressions) for name, (file, expressions) in PICTURES.items()}
    refused = {name: [t.expression for t in answer.targets if t.rejected] for name, answer in answers.items()}
    assert refused == {"scene": ["the penguin"], "photo": ["the giraffe"]}
    for target in answers["photo"].targets[:-1]:
        found, wanted = target.mask, masks[target.expression]
        assert (found & wanted).sum() >= 0.85 * (found | wanted).sum(), target.expression
