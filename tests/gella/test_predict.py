"""GELLA's tasks with random weights: what the answers must be like, whatever the model knows."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import gella_jax
from gella_jax import engine, model, prompts
from gella_jax.colormap import repeatable_rng
from gella_jax.data import arrays as inputs
from gella_jax.data.arrays import draw
from gella_jax.predict import Gella, Request, as_entities, meant
from grounding_jax.data.sources.panoptic_classes import Category
from grounding_jax.inference import generation
from grounding_jax.inference.generation import Generation
from grounding_jax.models import llava
from grounding_jax.segmenters.proposals import Proposals
from grounding_jax.weights import folder
from tests.small_gella import CAPTION, small_config, small_gella, small_params, small_picture, small_tokenizer

NOUNS = ["A dog", "two cats", "the couch"]


@pytest.fixture(scope="module")
def gella():
    return small_gella()


@pytest.fixture(scope="module")
def given(gella):
    image, masks = small_picture()
    return gella.ground(image, CAPTION, masks, NOUNS)


@pytest.mark.parametrize("part", ["llama", "mask2former", "association"])
def test_nothing_is_answered_with_weights_that_are_not_finite(gella, part):
    params = gella.engine.params
    params = {**params, part: jax.tree.map(lambda leaf: leaf * np.nan, params[part])}
    damaged = Gella(dataclasses.replace(gella.engine, params=params))
    image, masks = small_picture()
    with pytest.raises(ValueError, match="answers of this model are not finite"):
        damaged.ground(image, CAPTION, masks, NOUNS)
    if part == "llama":
        with pytest.raises(ValueError, match="answers of this model are not finite"):
            damaged.describe(image)


def test_a_mask_branch_alone_decodes_masks_and_has_no_words(tmp_path):
    """It is saved and loaded without a language model, a CLIP and ResoBlend."""
    config, params = small_config(blend=None), small_params()
    params = {name: params[name] for name in ("backbone", "mask2former")}
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(lambda key: model.init(config, key), jax.random.key(0))
    )
    folder.save(tmp_path, folder.from_params(params), config.to_json(), small_tokenizer().save)
    alone = gella_jax.load(tmp_path)
    image, masks = small_picture()
    entities, left_out = alone.entities_many([Request(image, "", masks)])[0]
    assert entities.masks.shape[1:] == image.shape[:2] and not left_out["hidden"]
    for ask in (alone.describe, lambda image: alone.ground(image, CAPTION, masks)):
        with pytest.raises(ValueError, match="trained on colormaps alone"):
            ask(image)


def writes(gella, *texts):
    """A stand-in for `generation.generate` in which the model writes given texts, one a call, with the states it would
    have."""
    waiting = list(texts)

    def generate(config, params, row, patches, keys, *, max_new, eos, mesh):
        text = waiting.pop(0)
        ids = np.tile(gella.engine.tokenizer.encode(text) + [eos] * max_new, (len(row["ids"]), 1))[:, :max_new]
        B, T = row["ids"].shape
        lengths = (row["branch"] >= 0).sum(1)
        whole = {name: np.full((B, T + max_new), filler, np.int32) for name, filler in (("ids", 0), ("branch", -1))}
        for b, length in enumerate(lengths):
            whole["ids"][b, : length + max_new] = [*row["ids"][b, :length], *ids[b]]
            whole["branch"][b, : length + max_new] = 1
        positions = np.tile(np.arange(T + max_new, dtype=np.int32), (B, 1))
        hidden, _ = llava.decode(config, params, whole["ids"], positions, whole["branch"], patches)
        states = np.stack([hidden[b, length - 1 : length - 1 + max_new] for b, length in enumerate(lengths)])
        return Generation(ids, states, np.zeros(ids.shape))

    return generate


def test_given_nouns_are_found_in_the_caption(given):
    assert [noun.text for noun in given.nouns] == NOUNS
    assert [CAPTION[slice(*noun.span)] for noun in given.nouns] == NOUNS
    assert given.text == prompts.nouns_answer(NOUNS)
    assert given.left_out == {"hidden": (), "surplus": ()} and given.finished
    for noun in given.nouns:
        assert noun.masks and noun.mask.any() and noun.scores.shape == (4,)
        assert set(noun.masks) == set(np.flatnonzero(noun.scores > 0.5)) or len(noun.masks) == 1


def test_given_nouns_equal_one_plain_forward_pass(gella, given):
    """Spec gella (l): gathering the states and queries of `model.forward` gives the same scores."""
    image, masks = small_picture()
    drawn = draw(gella.engine.config, as_entities(masks), repeatable_rng("", seed=0))
    row = gella.engine.batcher.rows([[[(prompts.nouns_question(CAPTION), prompts.nouns_answer(NOUNS))]]], [[CAPTION]])
    batch = {**row, **{name: array[None] for name, array in inputs.picture_arrays(gella.engine.config, image).items()}}
    outputs = jax.jit(model.forward, static_argnums=0)(
        gella.engine.config, gella.engine.params, {**batch, "colormaps": drawn.colormap[None]}
    )
    features, _ = engine.encode_image(gella.engine, [image])
    segmented = engine.segment_entities(gella.engine, features, [as_entities(masks)], [""])
    expected = np.asarray(jax.nn.sigmoid(outputs["association"]))[0, :3][:, segmented.query_of_mask(0)]
    np.testing.assert_allclose([noun.scores for noun in given.nouns], expected, rtol=1e-5, atol=1e-6)


def test_generated_nouns_have_the_states_of_a_plain_forward_pass(gella, given, monkeypatch):
    """Whatever was written, reading it again gives the same: the state at [SEG] is the one behind it."""
    image, masks = small_picture()
    monkeypatch.setattr(generation, "generate", writes(gella, prompts.nouns_answer(NOUNS)))
    written = gella.ground(image, CAPTION, masks)
    assert [noun.text for noun in written.nouns] == NOUNS and written.text == given.text
    for a, b in zip(written.nouns, given.nouns, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-5)
        assert a.masks == b.masks


def test_without_a_caption_the_model_describes_first(gella, given, monkeypatch):
    image, masks = small_picture()
    monkeypatch.setattr(generation, "generate", writes(gella, CAPTION, prompts.nouns_answer(NOUNS)))
    pipeline = gella.ground(image, entities=masks)
    assert (pipeline.caption, pipeline.text) == (CAPTION, given.text)
    assert pipeline.described and pipeline.finished and not given.described
    assert [noun.span for noun in pipeline.nouns] == [noun.span for noun in given.nouns]
    for a, b in zip(pipeline.nouns, given.nouns, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(generation, "generate", writes(gella, " "))
    with pytest.raises(ValueError, match="the model has no words for this picture: give it a caption"):
        gella.ground(image, entities=masks)
    with pytest.raises(ValueError, match="there are nouns without the caption that they are of"):
        gella.ground(image, entities=masks, nouns=NOUNS)


def test_pictures_of_a_batch_may_differ_in_what_is_given(gella, given, monkeypatch):
    image, masks = small_picture()
    wrong, answer = "There is one semantic noun: the dog [SEG].", prompts.nouns_answer(NOUNS)
    monkeypatch.setattr(generation, "generate", writes(gella, CAPTION, answer))
    groundings = gella.ground_many([Request(image, CAPTION, masks, NOUNS), Request(image, entities=masks)])
    assert [grounding.described for grounding in groundings] == [False, True]
    for grounding in groundings:
        assert (grounding.caption, grounding.text) == (CAPTION, answer)
        for a, b in zip(grounding.nouns, given.nouns, strict=True):
            np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(generation, "generate", writes(gella, wrong))
    first, second = gella.refer_many([Request(image, "the couch", masks), Request(image, CAPTION, masks, ["A dog"])])
    assert (first.nouns, second.nouns) == (("the dog",), ("A dog",))


def test_masks_that_are_not_given_are_found(gella, given):
    image, masks = small_picture()
    with pytest.raises(ValueError, match="there are no masks, and this model finds none itself: give it yours"):
        gella.ground(image, CAPTION, nouns=NOUNS)
    seen = []

    def segmenter(pictures):
        seen.extend(pictures)
        return [Proposals(as_entities(masks), {}) for _ in pictures]

    finds = Gella(gella.engine, segmenter)
    found = finds.ground(image, CAPTION, nouns=NOUNS)
    np.testing.assert_array_equal([a.scores for a in found.nouns], [b.scores for b in given.nouns])
    np.testing.assert_array_equal(seen, [image])
    assert finds.refer_many([Request(image, "the couch", nouns=["the couch"])])[0].mask.any()
    assert finds.panoptic(image, vocabulary="dog").left_out["hidden"] == ()
    assert len(seen) == 3
    finds.ground(image, CAPTION, masks[:2], NOUNS)
    assert len(seen) == 3, "those that are given count"
    mixed = [Request(image, CAPTION, one, NOUNS) for one in (None, masks, None)]
    for one in finds.ground_many(mixed):
        np.testing.assert_allclose([a.scores for a in one.nouns], [b.scores for b in given.nouns], rtol=1e-4, atol=1e-5)
    assert len(seen) == 5


def test_permuting_the_masks_permutes_the_answer(gella, given, monkeypatch):
    """Spec gella (l), the colours following their masks."""
    image, masks = small_picture()
    order = np.array([2, 0, 3, 1])
    choose = inputs.choose_colours
    monkeypatch.setattr(inputs, "choose_colours", lambda *args: choose(*args)[order])
    other = gella.ground(image, CAPTION, masks[order], NOUNS)
    for a, b in zip(other.nouns, given.nouns, strict=True):
        np.testing.assert_allclose(a.scores, b.scores[order], rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(a.mask, b.mask)


def test_soft_masks_have_a_threshold(gella, given):
    image, masks = small_picture()
    soft = gella.ground(image, CAPTION, np.where(masks, 0.9, 0.1), NOUNS)
    np.testing.assert_array_equal([a.scores for a in soft.nouns], [b.scores for b in given.nouns])


def test_a_batch_answers_as_each_alone(gella, given):
    image, masks = small_picture()
    other, its_masks = small_picture(1, (70, 50))
    requests = [
        Request(image, CAPTION, as_entities(masks), NOUNS),
        Request(other, "the dog.", as_entities(its_masks), ["dog"]),
    ]
    both = gella.ground_many(requests)
    for a, b in zip(both[0].nouns, given.nouns, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, rtol=1e-4, atol=1e-5)
    assert len(both[1].nouns) == 1 and both[1].nouns[0].mask.shape == (70, 50)


def test_decoded_masks(gella):
    image, masks = small_picture()
    decoded = gella.ground(image, CAPTION, masks, NOUNS, output_masks="decoded")
    assert decoded.entities.masks.shape == masks.shape and not np.array_equal(decoded.entities.masks, masks)
    for noun in decoded.nouns:
        np.testing.assert_array_equal(noun.mask, decoded.entities.masks[list(noun.masks)].any(0))
    with pytest.raises(ValueError, match="output_masks is 'both', should be input or decoded"):
        gella.ground(image, CAPTION, masks, NOUNS, output_masks="both")


def test_which_masks_a_noun_means():
    logits = np.array([-1.0, 0.4, -np.inf, 2.0, -3.0])
    assert meant(logits, 0.5) == (3, 1)
    assert meant(logits, 0.95) == (3,)  # none reaches the threshold: the best one
    assert meant(logits, 0.5, plural=False) == (3,)
    assert meant(logits, 0.5, plural=True) == (3, 1, 0)  # above 0.1
    assert meant(np.full(3, -np.inf), 0.5) == ()  # no mask has a query
    assert meant(logits, 0.5, absent=True) == (3, 1)
    assert meant(logits, 0.95, absent=True) == ()


def test_a_noun_may_be_absent(gella, given):
    image, masks = small_picture()
    best = sorted(noun.score for noun in given.nouns)
    threshold = (best[0] + best[1]) / 2
    answer = gella.ground(image, CAPTION, masks, NOUNS, threshold, absent=True)
    assert [noun.absent for noun in answer.nouns] == [noun.score == best[0] for noun in given.nouns]
    for noun, other in zip(answer.nouns, gella.ground(image, CAPTION, masks, NOUNS, threshold).nouns, strict=True):
        assert not other.absent and other.masks
        assert noun.masks == (() if noun.absent else other.masks) and noun.mask.any() != noun.absent
        assert noun.score == other.score  # of the mask that it would have meant


def test_masks_are_ranked_by_logits():
    """As float32, the probabilities of the first are all 1, and of the second all 0."""
    assert meant(np.array([20.0, 40.0, -120.0], np.float32), 0.5) == (1, 0)
    assert meant(np.array([-150.0, -120.0], np.float32), 0.5) == (1,)


def test_a_referring_expression_has_one_mask(gella, monkeypatch):
    image, masks = small_picture()
    monkeypatch.setattr(generation, "generate", writes(gella, "There is one semantic noun: the couch [SEG]."))
    reference = gella.refer(image, "the couch", masks)
    assert reference.nouns == ("the couch",)
    np.testing.assert_array_equal(reference.mask, masks[reference.place])
    grounding = gella.ground(image, "the couch", masks, ["the couch"])
    assert reference.place == grounding.nouns[0].scores.argmax()
    np.testing.assert_allclose(reference.score, grounding.nouns[0].scores.max(), rtol=1e-4)


def test_an_expression_without_nouns_stands_for_itself(gella, monkeypatch):
    image, masks = small_picture()
    monkeypatch.setattr(generation, "generate", writes(gella, "There are no semantic nouns."))
    reference = gella.refer(image, "the couch", masks)
    assert reference.nouns == ("the couch",) and reference.text == "There are no semantic nouns."
    np.testing.assert_array_equal(reference.mask, masks[reference.place])


def test_a_panoptic_map_has_one_segment_a_pixel(gella):
    image, masks = small_picture()
    vocabulary = [Category(7, "dog", True), Category(9, "couch", False), "cats"]
    result = gella.panoptic(image, masks, vocabulary)
    assert result.ids.shape == (50, 70)
    assert set(np.unique(result.ids)) - {0} == {segment.id for segment in result.segments}
    assert not result.ids[~masks.any(0)].any()
    assert result.left_out.keys() == {"hidden", "surplus", "improbable", "covered"}
    with pytest.raises(ValueError, match="the vocabulary has the id 2 more than once"):
        gella.panoptic(image, masks, [Category(2, "dog", False), "cat"])
    with pytest.raises(ValueError, match="the vocabulary has 'cat' more than once"):
        gella.panoptic(image, masks, ["cat", "dog", "Cat"])


def test_free_answers_end(gella):
    """Random weights write anything, within the limit."""
    image, _ = small_picture()
    assert isinstance(gella.describe(image, max_new=8), str)
    answer = gella.nouns(image, CAPTION, max_new=8)
    assert len(answer.nouns) == len(answer.spans) == answer.text.count("[SEG]")
    assert not answer.finished


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entities": np.zeros((0, 50, 70), bool)}, "there are no masks"),
        ({"entities": np.zeros((2, 40, 70), bool)}, "the masks have 40 x 70 pixels, but the picture has 50 x 70"),
        ({"entities": np.zeros((50, 70), bool)}, r"masks must be \[E, H, W\]"),
        ({"image": np.zeros((50, 70), np.uint8)}, r"a picture is uint8 \[H, W, 3\] RGB.*, not uint8 \[50, 70\]"),
        ({"caption": " . "}, "the sentence ' . ' is empty"),
        ({"nouns": ["dog", " "]}, "noun 2 of 2 is ' '"),
        ({"caption": "a dog " * 3000}, "takes 4096: it would be cut after '.*a dog"),
    ],
)
def test_bad_input_gets_one_line(gella, change, message):
    image, masks = small_picture()
    with pytest.raises(ValueError, match=message):
        gella.ground(**{"image": image, "caption": CAPTION, "entities": masks, "nouns": NOUNS, **change})


def test_a_path_a_pillow_picture_and_a_lone_text_are_taken_as_arrays_and_lists_are(gella, tmp_path):
    image, masks = small_picture()
    path, pillow = tmp_path / "picture.png", Image.fromarray(image)
    pillow.save(path)
    array = gella.ground(image, "a dog", masks, ["dog"])
    for other in (gella.ground(path, "a dog", masks, "dog"), gella.ground(pillow, "a dog", masks, ["dog"])):
        assert other.text == array.text
        np.testing.assert_array_equal(other.nouns[0].scores, array.nouns[0].scores)
    assert gella.describe(str(path), max_new=4) == gella.describe(image, max_new=4)
    assert gella.nouns(path, "a dog", max_new=4) == gella.nouns(image, "a dog", max_new=4)
    assert gella.refer(path, "a dog", masks).score == gella.refer(image, "a dog", masks).score
    segments = [gella.panoptic(picture, masks, words).segments for picture, words in ((path, "dog"), (image, ["dog"]))]
    assert segments[0] == segments[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": None}, "a picture is .*, not of type NoneType"),
        ({"caption": 3}, "a caption is a text, not of type int"),
        ({"nouns": ["dog", 3]}, "a noun is a text, not of type int"),
        ({"entities": "masks.json"}, "masks must be an array"),
    ],
)
def test_what_is_of_another_type_is_one_line(gella, change, message):
    image, masks = small_picture()
    with pytest.raises(TypeError, match=message):
        gella.ground(**{"image": image, "caption": CAPTION, "entities": masks, "nouns": NOUNS, **change})
    with pytest.raises(TypeError, match="an expression is a text, not of type NoneType"):
        gella.refer(image, None, masks)


def test_masks_that_are_not_seen_or_too_many_are_counted(gella):
    image, _ = small_picture()
    masks = np.zeros((12, 50, 70), bool)
    for k in range(10):
        masks[k, :, 7 * k : 7 * k + 3 + k % 4] = True
    masks[10, :, 0:3] = True  # as large as the first, and painted over by it
    grounding = gella.ground(image, CAPTION, masks, NOUNS)  # the last one is empty; six queries
    assert grounding.left_out == {"hidden": (10, 11), "surplus": (0, 4, 8, 9)}
    assert all((noun.scores > 0).sum() == 6 for noun in grounding.nouns)


def test_five_hundred_masks(gella):
    image, _ = small_picture()
    rows, columns = np.divmod(np.arange(500), 25)
    masks = np.zeros((500, 50, 70), bool)
    masks[np.arange(500), 2 * rows, 2 * columns] = True
    grounding = gella.ground(image, CAPTION, masks, NOUNS)
    assert len(grounding.left_out["surplus"]) + len(grounding.left_out["hidden"]) == 500 - 6
    assert len(grounding.nouns[0].scores) == 500
