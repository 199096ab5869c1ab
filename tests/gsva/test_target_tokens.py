"""Other tokens for targets than one [SEG] and [REJ]: LISA's [SEG] alone, and the eight of the ablation."""

import numpy as np
import pytest

import gsva_jax
from grounding_jax.files.pictures import open_picture
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.rows import encode_conversation, pack_row
from grounding_jax.training.experiment import run
from grounding_jax.weights import folder
from grounding_jax.weights.fresh import moved_vocabulary
from gsva_jax import engine, prompts
from gsva_jax.config import ASSETS
from gsva_jax.evaluation import protocols
from gsva_jax.training.experiment import GSVA, load_config

EIGHT = load_config("gsva_7b_eight_tokens").recipe.tokens
LETTERS = "abcdefghij"


@pytest.fixture(scope="module")
def frozen(golden):
    return tokenizers.freeze(golden / "gsva" / "tiny-llava")


@pytest.fixture(scope="module")
def eight(frozen):
    return tokenizers.with_targets(frozen, EIGHT)[0]


def words(tokenizer, ids):
    return [tokenizer.decode([i]) for i in ids]


def test_lisas_vocabulary_is_the_one_that_is_frozen_without_rejection(golden, frozen):
    lisa, rows = tokenizers.with_targets(frozen, ["[SEG]"])
    alone = tokenizers.freeze(golden / "gsva" / "tiny-llava", ("[SEG]", "<im_start>", "<im_end>"))
    assert lisa.backend.to_str() == alone.backend.to_str() and lisa.rej is None
    assert rows == (*range(421), 422, 423), "all but [REJ], which is 421"


def test_eight_tokens_stand_where_one_stood(frozen, eight):
    assert words(eight, eight.seg) == [f"[SEG00{j}]" for j in range(8)] and eight.seg == tuple(range(420, 428))
    assert (eight.rej, eight.im_start, eight.im_end, eight.vocab_size) == (428, 429, 430, 431)
    assert len(eight.encode("[SEG]")) > 1, "it is no token any more"
    _, rows = tokenizers.with_targets(frozen, EIGHT)
    assert rows == (*range(420), *[-1] * 8, 421, 422, 423)


def test_the_way_back(frozen, eight):
    again, rows = tokenizers.with_targets(eight, ["[SEG]", "[REJ]"])
    assert again.backend.to_str() == frozen.backend.to_str()
    assert rows == (*range(420), -1, 428, 429, 430)


def test_target_j_has_token_j_mod_8_and_a_rejected_one_counts(eight):
    rejected = [j in (1, 8) for j in range(10)]
    answer = eight.number_targets(prompts.list_answer(LETTERS, rejected, 1))
    tokens = ["[REJ]" if no else f"[SEG00{j % 8}]" for j, no in enumerate(rejected)]
    assert answer == f"Sure, they are {', '.join(map(':'.join, zip(LETTERS, tokens, strict=True)))}."


def test_one_token_changes_nothing(golden, frozen):
    text = prompts.list_answer(LETTERS, [False] * 10, 1)
    lisa = tokenizers.freeze(golden / "gsva" / "tiny-llava", ("[SEG]", "<im_start>", "<im_end>"))
    assert frozen.number_targets(text) is text and lisa.number_targets(text) is text
    assert tokenizers.with_targets(frozen, ["[SEG]", "[REJ]"])[0].backend.to_str() == frozen.backend.to_str()


def test_rows_have_the_tokens_of_their_vocabulary(eight):
    """Two conversations about a picture: numbers begin anew in each, and all tokens are found as targets."""
    template = prompts.TEMPLATES["llava_v1"]
    rejected = [False] * 9 + [True]
    rounds = [
        (prompts.list_question(LETTERS, 0), prompts.list_answer(LETTERS, rejected, 0)),
        (prompts.single_question("k", False, 0), prompts.single_answer(0)),
    ]
    encoded = [encode_conversation(eight, template.conversation([turn]), template.separator) for turn in rounds]
    row = pack_row(eight, encoded, num_patches=16)
    answered = words(eight, row["labels"][row["seg_positions"]])
    assert answered == [*(f"[SEG00{j % 8}]" for j in range(9)), "[REJ]", "[SEG000]"]
    assert row["target_rejected"].tolist() == [*rejected, False]


def test_rows_of_the_vocabulary_move_with_their_tokens():
    draw = np.random.default_rng(0)
    embedding, kernel = draw.normal(size=(300, 64)).astype("f4"), draw.normal(size=(64, 300)).astype("f4")
    rows = (*range(100), *[-1] * 100, *range(150, 300))
    moved = moved_vocabulary({"embed": {"embedding": embedding}, "head": {"kernel": kernel}, "norm": 1}, rows)
    for old, new in ((embedding, moved["embed"]["embedding"]), (kernel.T, moved["head"]["kernel"].T)):
        assert new.shape == (350, 64) and new.dtype == np.float32
        np.testing.assert_array_equal(new[:100], old[:100])
        np.testing.assert_array_equal(new[200:], old[150:])
        assert new[100:200].std() == pytest.approx(0.02, rel=0.05) and abs(new[100:200].mean()) < 1e-3
    assert (moved["embed"]["embedding"][100:200] != moved["head"]["kernel"].T[100:200]).all()
    assert moved["norm"] == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What `gsva train gsva_7b_eight_tokens --debug` leaves, with fewer and smaller updates."""
    options = ["--steps", "2", "--batch-size", "2", "--accumulate", "1", "--remat", "none", "--canvas", "320"]
    return run(GSVA, "gsva_7b_eight_tokens", tmp_path_factory.mktemp("runs"), overrides=options, debug=True)


@pytest.fixture(scope="module")
def gsva(trained):
    return gsva_jax.load(trained)


def test_a_debug_run_with_eight_tokens(trained, gsva):
    """It trains them, and leaves a model folder of their vocabulary; the other rows come from the start."""
    before, after = (folder.load(place) for place in (ASSETS / "tiny", trained))
    old, new = (tokenizers.load_tokenizer(place) for place in (ASSETS / "tiny", trained))
    assert words(new, new.seg) == list(EIGHT[:8]) and new.vocab_size == old.vocab_size + 7
    embedding = after["llama"]["embed"]["embedding"]
    assert embedding.shape[0] == new.vocab_size == gsva.engine.config.llama.vocab_size
    was, now = before["llama"]["embed"]["embedding"], np.asarray(embedding, np.float32)
    np.testing.assert_allclose(now[: old.seg[0]], np.asarray(was, np.float32)[: old.seg[0]], atol=2e-3)
    np.testing.assert_allclose(now[new.rej], np.asarray(was, np.float32)[old.rej], atol=2e-3)
    assert 0.01 < now[list(new.seg)].std() < 0.03
    picture = open_picture(ASSETS / "photo_scene.jpg")
    answer = gsva.segment(picture, ["the dog", "the turtle"], threshold=0)
    assert answer.text == "Sure, they are the dog:[SEG000], the turtle:[SEG001]."


def test_the_second_reading_of_the_official_protocol_has_their_own_tokens(gsva):
    """Read again with [SEG] in the place of [REJ], an answer is like one that never had [REJ]."""
    patches = engine.encode_image(gsva.engine, [open_picture(ASSETS / "photo_scene.jpg")])[1]
    things = ["the dog", "the turtle", "the banana"]

    def row(rejected):
        return gsva.engine.batcher.pack([gsva.engine.batcher.encode([[prompts.official_list(things, rejected)]])], 3)

    twice = protocols.teacher_force(gsva.engine, row([False, True, True]), patches, second_pass=True)
    once = protocols.teacher_force(gsva.engine, row([False] * 3), patches, second_pass=True)
    np.testing.assert_allclose(twice.hidden[:, :3], once.hidden[:, :3], atol=1e-4)
