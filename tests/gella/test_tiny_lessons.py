"""What the tiny GELLA is told in its lessons is true of the scenes."""

import jax
import numpy as np
import pytest
from etils import epath

from gella_jax.tiny.finding import MaskFinding
from gella_jax.tiny.pretraining import QueryPretraining, all_nouns, told_by_queries
from gella_jax.tiny.scenes import KIND_OF, OTHER, RELATIONS, SIZE, SceneMixture, entities_of, said
from gella_jax.tiny.vocabulary import tiny_config, tiny_tokenizer
from grounding_jax.data.scenes.narrated import CATEGORIES, NarratedScene, NarratedSceneSource
from grounding_jax.training.runs import load_starts

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def scenes() -> list[NarratedScene]:
    source = NarratedSceneSource(0, "train", 8, SIZE)
    return [source[k] for k in range(8)]


@pytest.mark.parametrize(
    "text, kind, relation",
    [
        ("the left turtle", "turtle", "left"),
        ("Two turtles", "turtle", ""),
        ("the wall", "wall", ""),
        ("the weather", None, ""),
        ("the smallest pig", "pig", "smallest"),
    ],
)
def test_words_tell_kind_and_relation(text, kind, relation):
    assert said(text, (0,)) == (text, (0,), KIND_OF.get(kind, OTHER), RELATIONS.index(relation))


def test_every_entity_is_of_one_category(scenes):
    for scene in scenes:
        nouns = all_nouns(scene)
        of_categories = [place for noun in nouns[: len(CATEGORIES)] for place in noun.entities]
        assert sorted(of_categories) == list(range(len(scene.entities)))
        for noun in nouns[len(CATEGORIES) :]:
            [place] = noun.entities
            assert noun.relation and KIND_OF[scene.entities[place].kind] == noun.kind


def test_queries_are_asked_what_the_colormap_shows():
    """Two of a kind side by side, of which the left is known to be the left one, and another thing."""
    index = np.zeros((8, 8), np.int16)
    index[2:4, 0:4], index[2:6, 6:8], index[7, 7] = 1, 2, 3
    nouns = [said(category.name, ()) for category in CATEGORIES] + [said(f"the left {CATEGORIES[5].name}", (0,))]
    meant = np.zeros((len(nouns) + 2, 4), bool)
    meant[5, :2] = meant[9, 2] = meant[len(CATEGORIES), 0] = True
    told = told_by_queries(index, meant, nouns)
    assert told["kinds"][:3].tolist() == [5, 5, 9]
    np.testing.assert_allclose(told["extents"][0], [0, 2 / 8, 4 / 8, 4 / 8, 8**0.5 / 8], rtol=1e-6)
    np.testing.assert_allclose(told["extents"][2], [7 / 8, 7 / 8, 1, 1, 1 / 8], rtol=1e-6)
    assert told["relations"][:3, 0].tolist() == [1, 0, -1] and (told["relations"][:, 1:] == -1).all()


def test_examples_of_queries_have_all_nouns():
    task = QueryPretraining()
    for k in range(3):
        example = task.examples(0)[k]
        seen = example["visible"]
        assert example["meant"][: len(CATEGORIES), seen].sum(0).tolist() == [1] * seen.sum()
        assert np.unique(example["index"]).max() == seen.sum()


@pytest.mark.parametrize("whole_share", [0.0, 1.0])
def test_what_is_asked_has_room_and_means_the_entities(scenes, whole_share):
    tokenizer = tiny_tokenizer()
    mixture = SceneMixture(tiny_config(), tokenizer, whole_share=whole_share)
    for k, scene in enumerate(scenes):
        told = mixture.fitting(mixture.conversations(scene, np.random.default_rng(k)))
        nouns = [noun for _, nouns in told for noun in nouns]
        example = mixture.example(scene, np.random.default_rng(k))
        names = np.array(entities_of(scene).names)
        for kind, noun in zip(example["noun_kind"], nouns, strict=False):
            assert kind == noun.kind and {KIND_OF[name] for name in names[list(noun.entities)]} <= {kind}
        assert example["ids"].shape == (mixture.length,) and len(nouns) <= mixture.max_nouns
        assert (np.isin(example["labels"], tokenizer.seg).sum() == len(nouns)) and len(told) >= 1
        if whole_share:
            assert [noun.kind for noun in nouns[: len(CATEGORIES)]] == list(range(len(CATEGORIES)))


def test_what_finds_masks_is_a_start_again(tmp_path):
    """Its folder is in the layout of transformers; a start gives back what was trained, but for the helper."""
    finding = MaskFinding()
    shapes, rng = jax.eval_shape(finding.init, jax.random.key(0)), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)
    kept = {name: params[name] for name in finding.export_keys}
    finding.save_model(epath.Path(tmp_path / "finder"), kept)
    jax.tree.map(np.testing.assert_array_equal, load_starts(finding, [epath.Path(tmp_path / "finder")]), kept)
