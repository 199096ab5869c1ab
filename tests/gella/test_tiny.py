"""The model in the package: it does on the committed scenes what docs/tiny.md says it does."""

import pathlib

import pytest

import gella_jax
from gella_jax.cli.demo import CAPTION, MASKS, PICTURE
from gella_jax.config import ASSETS
from gella_jax.evaluation.masks import OWN_MASKS
from gella_jax.evaluation.run import evaluate
from gella_jax.tiny.vocabulary import tiny_config, tiny_tokenizer
from grounding_jax.data.entity_masks import read_masks
from grounding_jax.data.scenes.narrated import CATEGORIES
from grounding_jax.files.pictures import open_picture


@pytest.fixture(scope="module")
def tiny() -> gella_jax.Gella:
    return gella_jax.load("tiny")


def test_it_is_what_its_config_makes(tiny):
    assert tiny.engine.config == tiny_config()
    assert tiny.engine.tokenizer.backend.to_str() == tiny_tokenizer().backend.to_str()
    assert tiny.categories == CATEGORIES
    assert sum(path.stat().st_size for path in pathlib.Path(ASSETS / "tiny").rglob("*")) <= 12e6


def test_it_grounds_captions_and_tells_categories(tiny):
    captions = evaluate(tiny, ASSETS / "scenes", "png|val2017", "guided", masks="truth", batch_size=12)
    assert captions["num_images"] == 12
    assert captions["AR"] >= 0.85
    panoptic = evaluate(tiny, ASSETS / "scenes", "panoptic|val2017", "official", masks="truth", batch_size=12)
    assert panoptic["PQ"] >= 0.7
    found = evaluate(tiny, ASSETS / "scenes", "png|val2017", "guided", batch_size=12)
    assert found["masks"] == OWN_MASKS and found["AR"] >= 0.5


def test_the_caption_of_the_demo_is_right(tiny):
    image = open_picture(PICTURE)
    entities = read_masks(MASKS, image.shape[:2])
    grounding = tiny.ground(image, CAPTION, entities, absent=True)
    assert [[entities.names[k] for k in noun.masks] for noun in grounding.nouns] == [
        ["globe", "globe"],
        ["crab"],
        ["panda"],
        [],
    ]
    assert all(noun.span for noun in grounding.nouns) and grounding.nouns[-1].absent
