"""Prediction with the golden weights: greedy ids, guided decisions against a slow loop, and batches."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import gella_jax
import gsva_jax
from grounding_jax.files.pictures import open_picture
from grounding_jax.inference.generation import generate
from grounding_jax.language.rows import encode_prompt
from grounding_jax.models import llama, llava
from gsva_jax import engine, model, prompts, steps

WORDS = ["dog", "cat", "apple", "man", "chair", "tree", "left", "right", "top", "small", "red", "of", "the", "with"]


@pytest.fixture(scope="module")
def gsva(golden_model) -> gsva_jax.Gsva:
    return gsva_jax.load(golden_model)


@pytest.fixture(scope="module")
def pictures(gsva_golden) -> list[np.ndarray]:
    folder = gsva_golden / "data" / "refer_seg" / "images" / "mscoco" / "images" / "train2014"
    return [open_picture(path) for path in sorted(folder.iterdir())]


def test_greedy_ids_are_those_of_the_release(gsva, gsva_golden):
    cases = json.loads((gsva_golden / "greedy.json").read_text())
    asked = [encode_prompt(gsva.engine.tokenizer, case["prompt"]) for case in cases]
    for case, prompt in zip(cases, asked, strict=True):
        np.testing.assert_array_equal(prompt.ids, case["prompt_ids"])
    _, patches = engine.encode_image(
        gsva.engine, [open_picture(gsva_golden / "data" / case["image"]) for case in cases]
    )
    rows = gsva.engine.batcher.pack([[prompt] for prompt in asked], 0)
    decisions = (*gsva.engine.tokenizer.seg, gsva.engine.tokenizer.rej)
    options = dict(max_new=24, eos=gsva.engine.tokenizer.eos, suppressed=decisions, temperature=0.0)
    written = generate(gsva.engine.config.llama, gsva.engine.params["llama"], rows, patches, None, **options)
    for ids, case in zip(written.ids, cases, strict=True):
        np.testing.assert_array_equal(ids, case["greedy_ids"])


def random_requests(num: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 6))] for _ in range(num)]


def slow_decisions(gsva, texts: list[list[str]], patches) -> tuple[np.ndarray, np.ndarray]:
    """Chooses token by token, without a cache: reads every row up to the slot before a target, writes, starts over."""
    row = gsva.engine.batcher.rows([[[prompts.guided_list(expressions)]] for expressions in texts], texts)
    seg, rej = gsva.engine.tokenizer.seg[0], gsva.engine.tokenizer.rej

    @jax.jit
    def pair(ids, branch, at):
        hidden, _ = llava.decode(
            gsva.engine.config.llama, gsva.engine.params["llama"], ids, row["positions"], branch, patches
        )
        logits = llama.logits(gsva.engine.config.llama, gsva.engine.params["llama"], model.gather(hidden, at[:, None]))[
            :, 0
        ]
        return logits[:, seg] - logits[:, rej]

    ids, rejected = row["ids"].copy(), np.zeros(row["target_valid"].shape, bool)
    margins = np.zeros(rejected.shape)
    for j in range(rejected.shape[1]):
        at = np.maximum(row["seg_positions"][:, j], 0)
        later = np.arange(ids.shape[1]) > at[:, None]
        margins[:, j] = pair(np.where(later, 0, ids), np.where(later, -1, row["branch"]), jnp.asarray(at))
        rejected[:, j] = row["target_valid"][:, j] & (margins[:, j] < 0)
        rows = np.flatnonzero(rejected[:, j])
        ids[rows, at[rows] + 1] = rej
    return rejected, margins


def test_guided_choice_equals_choosing_token_by_token(gsva, pictures):
    texts = random_requests(200, seed=0)
    images = [pictures[i % len(pictures)] for i in range(len(texts))]
    _, patches = engine.encode_image(gsva.engine, images)
    expected, margins = slow_decisions(gsva, texts, patches)
    row = gsva.engine.batcher.rows([[[prompts.guided_list(expressions)]] for expressions in texts], texts)
    decided, reading, score = engine.guided_decode(gsva.engine, row, patches, 0.5)
    M = expected.shape[1]
    np.testing.assert_array_equal(decided["target_rejected"][:, :M], expected)
    valid = row["target_valid"][:, :M]
    np.testing.assert_allclose(score[:, :M][valid], jax.nn.sigmoid(margins[valid]), atol=1e-4)
    mixed = sum(0 < expected[b].sum() < valid[b].sum() for b in range(len(texts)))
    assert mixed >= 50, f"only {mixed} of the 200 prompts have both kinds of decisions: the test says little"
    # The states that masks are made of are those of the text as decided, not of a pass before.
    pairs = zip(texts, expected, strict=True)
    whole = gsva.engine.batcher.rows([[[prompts.guided_list(t, list(r[: len(t)]))]] for t, r in pairs], texts)
    np.testing.assert_array_equal(decided["ids"], whole["ids"])
    hidden, _ = llava.decode(
        gsva.engine.config.llama,
        gsva.engine.params["llama"],
        whole["ids"],
        whole["positions"],
        whole["branch"],
        patches,
    )
    hidden = model.gather(hidden, whole["seg_positions"])
    np.testing.assert_allclose(
        np.where(row["target_valid"][..., None], reading.hidden, 0),
        np.where(row["target_valid"][..., None], hidden, 0),
        atol=2e-4,
    )


def test_a_result_does_not_depend_on_the_rest_of_the_batch(gsva, pictures):
    texts = random_requests(4, seed=1)
    requests = list(zip(pictures, texts, strict=False))
    together = gsva.segment_many(requests)
    for request, expected in zip(requests, together, strict=True):
        alone = gsva.segment(*request)
        assert alone.text == expected.text
        assert [t.rejected for t in alone.targets] == [t.rejected for t in expected.targets]
        for one, other in zip(alone.targets, expected.targets, strict=True):
            assert abs(one.score - other.score) < 1e-4
    questions = [(image, prompts.list_question(several, 2)) for image, several in requests]
    batch = gsva.answer(questions, max_new=16)
    for question, expected in zip(questions, batch, strict=True):
        alone = gsva.answer([question], max_new=16)[0]
        assert alone.text == expected.text
        np.testing.assert_allclose(alone.scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(alone.masks, expected.masks, atol=1e-3)


def test_threshold_trades_rejections_for_masks(gsva, pictures):
    texts = random_requests(8, seed=2)[0]
    rejected = [sum(t.rejected for t in gsva.segment(pictures[0], texts, p).targets) for p in (0.0, 1.1)]
    assert rejected == [0, len(texts)]


def test_answer_has_masks_of_the_pictures_size_and_its_text(gsva, pictures):
    answer = gsva.segment(pictures[3], ["top guy", "[SEG] red </s> chair"])
    assert [target.expression for target in answer.targets] == ["top guy", "[SEG] red </s> chair"]
    for target in answer.targets:
        assert target.mask.shape == pictures[3].shape[:2] and target.mask.dtype == bool
        assert 0 <= target.score <= 1 and (not target.rejected or not target.mask.any())
    marks = ["[REJ]" if target.rejected else "[SEG]" for target in answer.targets]
    assert answer.text == f"Sure, they are top guy:{marks[0]}, SEG red /s chair:{marks[1]}."


def test_ask_gives_a_mask_for_every_token_it_writes(gsva, pictures):
    answer = gsva.ask(pictures[1], "What are the dog and the cat in this image?", max_new=24, temperature=2.0, seed=3)
    again = gsva.ask(pictures[1], "What are the dog and the cat in this image?", max_new=24, temperature=2.0, seed=3)
    assert answer.text == again.text
    assert len(answer.targets) == answer.text.count("[SEG]") + answer.text.count("[REJ]")


def without_rejection(gsva) -> gsva_jax.Gsva:
    """The same weights without a [REJ], as LISA has none."""
    words = dataclasses.replace(gsva.engine.tokenizer, rej=None)
    return gsva_jax.Gsva(dataclasses.replace(gsva.engine, tokenizer=words))


def test_towers_run_once_a_picture_however_many_expressions(gsva, pictures, monkeypatch):
    seen = []
    encode_image = steps.encode_image
    monkeypatch.setattr(steps, "encode_image", lambda *arguments: seen.append(1) or encode_image(*arguments))
    gsva.segment(pictures[0], ["dog"] * 12)
    lisa = without_rejection(gsva)
    lisa.segment(pictures[0], ["dog", "cat", "tree"])
    assert len(seen) == 2


def test_lisa_answers_every_expression(gsva, pictures):
    lisa = without_rejection(gsva)
    answer = lisa.segment(pictures[0], ["dog", "cat"])
    assert answer.text == "Sure, it is [SEG]. Sure, it is [SEG]."
    assert not any(target.rejected for target in answer.targets)
    alone = lisa.segment(pictures[0], ["cat"])
    assert (alone.targets[0].mask != answer.targets[1].mask).mean() < 1e-3


def test_a_path_a_pillow_picture_and_a_lone_text_are_taken_as_arrays_and_lists_are(gsva, pictures, tmp_path):
    picture = Image.fromarray(pictures[0])
    picture.save(tmp_path / "picture.png")
    array, *others = (
        answer.targets[0]
        for answer in gsva.segment_many(
            [
                (pictures[0], ["dog"]),
                (picture, "dog"),
                (tmp_path / "picture.png", ("dog",)),
                (str(tmp_path / "picture.png"), "dog"),
            ]
        )
    )
    for other in (*others, gsva.segment(picture, "dog").targets[0]):
        assert other.expression == "dog" and abs(other.score - array.score) < 1e-5
        np.testing.assert_array_equal(other.mask, array.mask)
    assert gsva.ask(picture, "What is it?", max_new=4).text == gsva.ask(pictures[0], "What is it?", max_new=4).text
    with pytest.raises(TypeError, match="a question is a text, not of type list"):
        gsva.ask(picture, ["What is it?"])
    with pytest.raises(TypeError, match=r"request 0 is not a pair \(picture, expressions\)"):
        gsva.segment_many([pictures[0]])


def test_the_packages_show_what_they_have():
    for package in (gsva_jax, gella_jax):
        assert set(package.__all__) <= set(dir(package)) and "load" in dir(package)


def test_nothing_asked(gsva, pictures):
    assert gsva.segment_many([]) == []
    with pytest.raises(ValueError, match="no expression"):
        gsva.segment(pictures[0], [])


def test_bad_expressions(gsva, pictures):
    with pytest.raises(ValueError, match="empty"):
        gsva.segment(pictures[0], [" . "])
    with pytest.raises(ValueError, match=r"number 2 with \d+ tokens"):
        gsva.segment(pictures[0], ["dog", "very " * 900 + "long"])
    assert len(gsva.segment(pictures[0], ["dog"] * 50).targets) == 50
    assert len(gsva.segment(pictures[0], ["собака слева 🐶"]).targets) == 1
