"""Prediction with the golden weights: greedy ids, guided decisions against a slow loop, and batches."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gsva_jax
from grounding_jax.data.pictures import open_picture
from grounding_jax.language.rows import encode_conversation, encode_prompt, pack_row, stack_rows
from grounding_jax.models import llama
from gsva_jax import model, prompts
from gsva_jax.passes import see, write
from gsva_jax.weights import open_official

WORDS = (
    "dog cat apple man woman table chair tree horse umbrella left right top small large red blue of the with".split()
)


@pytest.fixture(scope="module")
def gsva(golden, tmp_path_factory) -> gsva_jax.Gsva:
    folder = tmp_path_factory.mktemp("model") / "ckpt"
    source = golden / "gsva"
    open_official(source / "gsva-tiny-a.bin", source / "tiny-llava", sizes=source / "config.json").save(folder)
    return gsva_jax.load(folder)


@pytest.fixture(scope="module")
def pictures(golden) -> list[np.ndarray]:
    folder = golden / "gsva" / "data" / "refer_seg" / "images" / "mscoco" / "images" / "train2014"
    return [open_picture(path) for path in sorted(folder.iterdir())]


def test_greedy_ids_are_those_of_the_release(gsva, golden):
    cases = json.loads((golden / "gsva" / "greedy.json").read_text())
    root = golden / "gsva" / "data"
    rows, images = [], []
    for case in cases:
        prompt = encode_prompt(
            gsva.tokenizer, case["prompt"].replace("<im_start><image><im_end>", "<im_start><image><im_end>")
        )
        np.testing.assert_array_equal(prompt.ids, case["prompt_ids"])
        rows.append(pack_row(gsva.tokenizer, [prompt], num_patches=16, length=320, max_targets=0))
        images.append(open_picture(root / case["image"]))
    _, patches = gsva.see(images)
    decisions = (*gsva.tokenizer.seg, gsva.tokenizer.rej)
    options = dict(max_new=24, eos=gsva.tokenizer.eos, suppressed=decisions, temperature=0.0)
    written = write(gsva.config, gsva.params, stack_rows(rows), patches, None, **options)
    for b, case in enumerate(cases):
        np.testing.assert_array_equal(written.ids[b], case["greedy_ids"])


def random_requests(num: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[" ".join(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(rng.integers(1, 6))] for _ in range(num)]


def slow_decisions(gsva, texts: list[list[str]], patches) -> tuple[np.ndarray, np.ndarray]:
    """Chooses token by token, without a cache: reads every row up to the slot before a target, writes, starts over."""
    template = prompts.TEMPLATES[gsva.config.template]
    text = [template.conversation([prompts.guided_list(expressions)]) for expressions in texts]
    encoded = [encode_conversation(gsva.tokenizer, one, template.separator) for one in text]
    row = stack_rows([pack_row(gsva.tokenizer, [one], num_patches=16, length=384, max_targets=5) for one in encoded])
    seg, rej = gsva.tokenizer.seg[0], gsva.tokenizer.rej

    @jax.jit
    def pair(ids, branch, at):
        hidden, _ = model.read(gsva.config, gsva.params, ids, row["positions"], branch, patches)
        logits = llama.logits(gsva.params["llama"], model.gather(hidden, at[:, None]))[:, 0]
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
    _, patches = gsva.see(images)
    expected, margins = slow_decisions(gsva, texts, patches)
    row = gsva.rows([[[prompts.guided_list(expressions)]] for expressions in texts], texts)
    decided, reading, score = gsva.decide(row, patches, 0.5)
    M = expected.shape[1]
    np.testing.assert_array_equal(decided["target_rejected"][:, :M], expected)
    valid = row["target_valid"][:, :M]
    np.testing.assert_allclose(score[:, :M][valid], jax.nn.sigmoid(margins[valid]), atol=1e-4)
    mixed = sum(0 < expected[b].sum() < valid[b].sum() for b in range(len(texts)))
    assert mixed >= 50, f"only {mixed} of the 200 prompts have both kinds of decisions: the test says little"
    # The states that masks are made of are those of the text as decided, not of a pass before.
    whole = gsva.rows([[[prompts.guided_list(t, list(r[: len(t)]))]] for t, r in zip(texts, expected)], texts)
    np.testing.assert_array_equal(decided["ids"], whole["ids"])
    hidden, _ = model.read(gsva.config, gsva.params, whole["ids"], whole["positions"], whole["branch"], patches)
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
    assert [target.expression for target in answer.targets] == ["top guy", "SEG red /s chair"]
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


def test_towers_run_once_a_picture(gsva, pictures):
    image, patches = gsva.see(pictures[:2])
    assert image.shape == (2, 8, 8, 32) and patches.shape == (2, 16, 48)
    assert see._cache_size() >= 1


def test_bad_expressions(gsva, pictures):
    with pytest.raises(ValueError, match="empty"):
        gsva.segment(pictures[0], [" . "])
    with pytest.raises(ValueError, match=r"number 2 with \d+ tokens"):
        gsva.segment(pictures[0], ["dog", "very " * 900 + "long"])
    assert len(gsva.segment(pictures[0], ["dog"] * 50).targets) == 50
    assert len(gsva.segment(pictures[0], ["собака слева 🐶"]).targets) == 1
