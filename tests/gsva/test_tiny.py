"""The model in the package: it does on the committed scenes what docs/tiny.md says it does."""

import pytest

import gsva_jax
from gsva_jax.config import ASSETS
from gsva_jax.evaluation.run import evaluate
from gsva_jax.tiny.vocabulary import tiny_config, tiny_tokenizer


@pytest.fixture(scope="module")
def tiny() -> gsva_jax.Gsva:
    return gsva_jax.load("tiny")


def test_it_is_what_its_config_makes(tiny):
    assert tiny.engine.config == tiny_config()
    assert tiny.engine.tokenizer.backend.to_str() == tiny_tokenizer().backend.to_str()
    assert sum(path.stat().length for path in (ASSETS / "tiny").iterdir()) <= 12e6


def test_it_finds_what_is_there_and_refuses_what_is_not(tiny):
    report = evaluate(tiny, ASSETS / "scenes", "grefcoco|unc|testA", "generated", batch_size=12)
    assert report["num_images"] == 12
    assert report["num_missing"] == report["num_surplus"] == 0
    assert report["gIoU"] >= 0.5 and report["N_acc"] >= 0.8 and report["T_acc"] >= 0.85
    blind = evaluate(tiny, ASSETS / "scenes", "grefcoco|unc|testA", "guided", batch_size=12, blind=True)
    assert (blind["N_acc"] + blind["T_acc"]) / 2 <= 0.6
