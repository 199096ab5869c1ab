"""Narrated scenes are cut into entities without a rest, and their captions mean what they say."""

import collections
import re

import numpy as np
import pytest

from grounding_jax.data.scenes.backgrounds import BACKDROPS, PHOTOGRAPHS, draw_backdrop
from grounding_jax.data.scenes.compose import scene
from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.narrated import CATEGORIES, NarratedSceneSource, narrated_scene
from grounding_jax.data.scenes.narratives import ABSTRACT, narrate, vocabulary_texts
from grounding_jax.language import tokenizer

pytestmark = pytest.mark.quick

SIZE = 96
NUM = 300
NUMBERS = {"two": 2, "three": 3}


@pytest.fixture(scope="module")
def scenes():
    return list(NarratedSceneSource(0, "train", NUM, SIZE))


@pytest.fixture(scope="module")
def captions(scenes):
    """Each scene with four captions of it."""
    rng = np.random.default_rng(0)
    told = [(one, narrate(rng, one.entities, (SIZE, SIZE))) for one in scenes for _ in range(3)]
    return [(one, one.narrative) for one in scenes] + told


def test_every_pixel_is_in_one_entity(scenes):
    for one in scenes:
        assert one.image.shape == (SIZE, SIZE, 3) and one.image.dtype == np.uint8
        np.testing.assert_array_equal(np.sum([entity.mask for entity in one.entities], 0), 1)
        for entity in one.entities:
            rows, columns = np.nonzero(entity.mask)
            assert entity.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert entity.area == len(rows) >= 0.01 * SIZE**2


def test_things_come_before_stuff(scenes):
    categories = {category.id: category for category in CATEGORIES}
    assert len(categories) == len(KINDS) + 3
    for one in scenes:
        own = [categories[number] for number in one.category_ids]
        assert [category.name for category in own] == [entity.kind for entity in one.entities]
        assert [category.isthing for category in own] == sorted((c.isthing for c in own), reverse=True)
        assert [c.name for c in own if not c.isthing] in (["background"], ["wall", "floor"])
    assert 0.4 <= np.mean([one.entities[-1].kind == "floor" for one in scenes]) <= 0.6


def test_expressions_mean_things(scenes):
    things = {kind.noun for kind in KINDS}
    for one in scenes:
        assert {one.entities[k].kind for expression in one.expressions for k in expression.objects} <= things
        assert any(expression.objects for expression in one.expressions)


@pytest.mark.parametrize("split", PHOTOGRAPHS)
def test_wall_is_above_a_floor_of_another_photograph(split):
    divided = 0
    for seed in range(40):
        picture, regions = draw_backdrop(np.random.default_rng(seed), split, SIZE)
        assert picture.size == (SIZE, SIZE) and picture.mode == "RGB"
        np.testing.assert_array_equal(np.sum(list(regions.values()), 0), 1)
        if "wall" in regions:
            divided += 1
            heights = regions["wall"].sum(0)  # of the wall in every column
            for column, height in enumerate(heights):
                assert regions["wall"][:height, column].all()
            assert 0.33 * SIZE <= heights[SIZE // 2] <= 0.67 * SIZE
            assert np.ptp(heights) <= 0.25 * SIZE
    assert 10 <= divided <= 30


def test_scene_is_a_function_of_its_arguments():
    one, again = narrated_scene(3, "val", 5, SIZE), NarratedSceneSource(3, "val", 6, SIZE)[5]
    np.testing.assert_array_equal(one.image, again.image)
    assert one.narrative == again.narrative and one.expressions == again.expressions
    others = [narrated_scene(*arguments, SIZE) for arguments in [(4, "val", 5), (3, "test", 5), (3, "val", 4)]]
    for other in (*others, scene(3, "val", 5, SIZE)):
        assert (other.image != one.image).any()


def test_source_ends_where_it_says():
    source = NarratedSceneSource(0, "val", 2, SIZE)
    assert len(source) == 2 and len(list(source)) == 2
    with pytest.raises(IndexError, match="scene 2 of a source of 2"):
        source[2]
    with pytest.raises(ValueError, match="split 'testA'.*train, val, test"):
        narrated_scene(0, "testA", 0, SIZE)


def test_phrases_are_where_they_say(captions):
    for _, narrative in captions:
        assert "".join(text for text, _ in narrative.parts) == narrative.caption
        assert [text for text, is_phrase in narrative.parts if is_phrase] == [p.text for p in narrative.phrases]
        assert [narrative.caption[slice(*p.span)] for p in narrative.phrases] == [p.text for p in narrative.phrases]
        assert list(p.span for p in narrative.phrases) == sorted(p.span for p in narrative.phrases)
        assert 2 <= len(narrative.phrases) <= 8
        assert any(p.entities for p in narrative.phrases)
        texts = [p.text.lower() for p in narrative.phrases]
        assert len(set(texts)) == len(texts)


def test_phrases_mean_what_they_say(captions):
    """Recomputed from the masks: all of a kind, the only one, or the one that a word of place or size tells."""
    for one, narrative in captions:
        for phrase in narrative.phrases:
            words = phrase.text.lower().split()
            members = [k for k, entity in enumerate(one.entities) if entity.kind == phrase.kind]
            own = next((kind for kind in KINDS if kind.noun == phrase.kind), None)
            assert words[-1] == (own.plural if words[-1] != phrase.kind else phrase.kind)
            if phrase.family in ("absent", "abstract"):
                assert not members and not phrase.entities
                assert (phrase.kind in ABSTRACT) == (phrase.family == "abstract")
            elif phrase.family in ("place", "size"):
                assert len(members) > 1 and phrase.entities == (_meant(words[1], one.entities, members),)
            else:
                assert list(phrase.entities) == members
                assert phrase.family == ("stuff" if own is None else "all" if len(members) > 1 else "name")
            if phrase.family in ("all", "name"):
                assert (words[-1] == own.plural) == (len(members) > 1)
                assert all(NUMBERS.get(word, len(members)) == len(members) for word in words)
                assert words[0] != ("a" if own.noun[0] in "aeiou" else "an")


def _meant(word, entities, members):
    """The member that is extreme in what a word of place or size speaks of, by a clear gap."""
    axis, sign = {"left": (0, 1), "right": (0, -1), "top": (1, 1), "bottom": (1, -1)}.get(word, (None, None))
    if axis is None:
        areas = [entities[k].mask.sum() * (-1 if word == "largest" else 1) for k in members]
        first, second = np.argsort(areas)[:2]
        assert max(areas[first] / areas[second], areas[second] / areas[first]) >= 1.6
        return members[first]
    centres = [sign * (entities[k].box[axis] + entities[k].box[axis + 2]) / 2 for k in members]
    first, second = np.argsort(centres)[:2]
    assert centres[second] - centres[first] >= 0.08 * SIZE
    return members[first]


def test_relations_are_true(captions):
    """Words of place between two phrases, recomputed from the masks, for those that are in the picture."""
    seen = collections.Counter()
    for one, narrative in captions:
        for before, (text, is_phrase), after in zip(
            narrative.parts, narrative.parts[1:], narrative.parts[2:], strict=False
        ):
            found = re.fullmatch(r" (?:is|are|rests|rest) (above|below|to the left of|on) ", text)
            if is_phrase or not found:
                continue
            first, second = (_pixels(one, narrative, part[0]) for part in (before, after))
            if first is None or second is None:
                continue
            seen[found[1]] += 1
            if found[1] == "on":  # the middle is lower than every pixel of the wall
                assert first[0].max() > np.nonzero(one.entities[-2].mask)[0].max()
                continue
            axis = int("left" in found[1])
            first, second = (second, first) if found[1] == "below" else (first, second)
            assert first[axis].max() < second[axis].min()
    assert set(seen) == {"above", "below", "to the left of", "on"}


def _pixels(one, narrative, text):
    """Rows and columns of all that a phrase means; None where it means nothing."""
    entities = next(p.entities for p in narrative.phrases if p.text == text)
    return np.nonzero(np.any([one.entities[k].mask for k in entities], 0)) if entities else None


def test_captions_keep_the_shares(captions):
    def share(holds):
        return np.mean([holds(narrative) for _, narrative in captions])

    families = collections.Counter(p.family for _, narrative in captions for p in narrative.phrases)
    assert share(lambda n: any(len(p.entities) > 1 for p in n.phrases)) >= 0.4
    assert 0.09 <= share(lambda n: any(p.family == "absent" for p in n.phrases)) <= 0.16
    assert 0.09 <= share(lambda n: any(p.family == "abstract" for p in n.phrases)) <= 0.16
    assert share(lambda n: any(p.family == "stuff" for p in n.phrases)) >= 0.4
    assert min(families["place"], families["size"]) / families.total() >= 0.02
    assert {len(n.phrases) for _, n in captions} == set(range(2, 9))
    openings = {n.caption.split()[0] for _, n in captions}
    assert {"There", "We", "In", "Next", "The", "Two", "A", "Here", "Near"} <= openings


def test_absent_kinds_read_like_present_ones(scenes):
    """The form of a phrase does not tell that its noun is not there: absence is about as frequent in each."""
    rng, absent = np.random.default_rng(1), collections.defaultdict(list)
    for one in scenes * 8:
        for phrase in narrate(rng, one.entities, (SIZE, SIZE)).phrases:
            if phrase.family not in ("stuff", "abstract"):
                *words, noun = phrase.text.lower().replace("an ", "a ").split()
                form = "plural" if noun != phrase.kind else words[0] if len(words) == 1 else "place or size"
                absent[form].append(phrase.family == "absent")
    assert set(absent) == {"plural", "a", "the", "place or size"}
    for form, values in absent.items():
        assert 0.02 <= np.mean(values) <= 0.08, form


def test_vocabulary_has_every_word_and_no_other(captions):
    vocabulary = vocabulary_texts()
    used = {word for _, n in captions for word in re.findall(r"\w+|[^\w\s]", n.caption)}
    assert used <= set(vocabulary)
    assert len(vocabulary) == len(set(vocabulary)) <= 2 * len(KINDS) + 120
    assert set(vocabulary) - used <= {kind.plural for kind in KINDS}  # each is rare


def test_each_word_is_a_token(captions):
    own = tokenizer.train([" ".join(vocabulary_texts())])
    for _, narrative in captions[:50]:
        assert len(own.encode(narrative.caption)) == len(re.findall(r"\w+|[^\w\s]", narrative.caption))


def test_stuff_is_called_what_no_thing_is():
    words = [word for kind in KINDS for word in (kind.noun, kind.plural)]
    assert len({*words, *BACKDROPS, *ABSTRACT}) == len(words) + len(BACKDROPS) + len(ABSTRACT)
