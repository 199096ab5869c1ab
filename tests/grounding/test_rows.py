"""Rows: stored ids and labels, and conversations packed behind one prefix against the same ones alone."""

import json

import numpy as np
import pytest

from grounding_jax.language import rows
from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.models.llava import IMAGE_TOKEN
from gsva_jax.prompts import TEMPLATES

pytestmark = pytest.mark.quick

NUM_PATCHES = 16
SEPARATOR = TEMPLATES["llava_v1"].separator


@pytest.fixture(scope="module")
def tokenizer(golden):
    return tokenizers.freeze(golden / "gsva" / "tiny-llava")


@pytest.fixture(scope="module")
def stored(golden):
    return np.load(golden / "gsva" / "train_batch.npz")


@pytest.fixture(scope="module")
def conversations(golden, tokenizer):
    texts = json.loads((golden / "gsva" / "meta.json").read_text())["train"]["conversations"]
    return [rows.encode_conversation(tokenizer, text, SEPARATOR) for text in texts]


def encode(tokenizer, *rounds, template="llava_v1"):
    chosen = TEMPLATES[template]
    return rows.encode_conversation(tokenizer, chosen.conversation(rounds), chosen.separator)


def pack(tokenizer, conversations, **options):
    return rows.pack_row(tokenizer, conversations, num_patches=NUM_PATCHES, **options)


@pytest.mark.parametrize("template", ["llava_v1", "llava_llama_2"])
def test_stored_ids_and_labels(golden, tokenizer, template):
    stored = json.loads((golden / "gsva" / "prompts.json").read_text())[template]
    expected = zip(stored["conversations"], stored["input_ids"], stored["labels"], strict=True)
    for text, ids, labels in expected:
        conversation = rows.encode_conversation(tokenizer, text, TEMPLATES[template].separator)
        assert conversation.ids.tolist() == ids
        assert conversation.labels.tolist() == labels


def test_stored_batch(tokenizer, stored, conversations):
    S = stored["input_ids"].shape[1]
    for i, conversation in enumerate(conversations):
        filler = S - len(conversation.ids)
        np.testing.assert_array_equal(np.pad(conversation.ids, (0, filler)), stored["input_ids"][i])
        np.testing.assert_array_equal(
            np.pad(conversation.labels, (0, filler), constant_values=rows.IGNORED), stored["labels"][i]
        )
        row = pack(tokenizer, [conversation], length=S + NUM_PATCHES - 1)
        seen = row["branch"] >= 0
        np.testing.assert_array_equal(seen[NUM_PATCHES - 1 :], stored["attention_masks"][i])


def test_one_conversation_is_an_ordinary_row(tokenizer, stored, conversations):
    """Positions, expansion, shifted labels and the slots before [SEG] and [REJ], recomputed."""
    for i, conversation in enumerate(conversations):
        row = pack(tokenizer, [conversation])
        S = len(conversation.ids)
        T = S + NUM_PATCHES - 1
        assert row["positions"].tolist() == list(range(T))
        picture = int(np.argmax(stored["input_ids"][i] == IMAGE_TOKEN))
        slots = np.arange(S) + (NUM_PATCHES - 1) * (np.arange(S) > picture)
        others = np.arange(S) != picture
        np.testing.assert_array_equal(row["ids"][slots[others]], conversation.ids[others])
        assert (row["ids"] == IMAGE_TOKEN).nonzero()[0].tolist() == list(range(picture, picture + NUM_PATCHES))
        unshifted = np.full(T + 1, rows.IGNORED)
        unshifted[slots] = stored["labels"][i][:S]
        np.testing.assert_array_equal(row["labels"], unshifted[1:])
        targets = np.isin(conversation.ids, [*tokenizer.seg, tokenizer.rej]).nonzero()[0]
        np.testing.assert_array_equal(row["seg_positions"], targets + NUM_PATCHES - 2)
        np.testing.assert_array_equal(row["target_rejected"], conversation.ids[targets] == tokenizer.rej)
        assert row["target_valid"].all()
        assert row["branch"].min() == 0 and row["branch"].max() == 1


def test_loss_positions_of_the_stored_batch(tokenizer, stored, conversations):
    S = stored["input_ids"].shape[1]
    batch = rows.stack_rows([pack(tokenizer, [c], length=S + NUM_PATCHES - 1, max_targets=5) for c in conversations])
    np.testing.assert_array_equal(np.argwhere(batch["labels"] != rows.IGNORED), stored["loss_positions_expanded"])


def test_branches_equal_separate_rows(tokenizer, conversations):
    """Each branch with the prefix, taken out of a packed row, is the row of its conversation alone."""
    together = conversations[:2] + conversations[3:]
    row = pack(tokenizer, together, length=1500, max_targets=20)
    first_target = 0
    for number, conversation in enumerate(together, 1):
        alone = pack(tokenizer, [conversation])
        keep = ((row["branch"] == 0) | (row["branch"] == number)).nonzero()[0]
        for name in ("ids", "positions", "labels"):
            np.testing.assert_array_equal(row[name][keep], alone[name])
        M = len(alone["seg_positions"])
        these = slice(first_target, first_target + M)
        np.testing.assert_array_equal(row["seg_positions"][these], keep[alone["seg_positions"]])
        np.testing.assert_array_equal(row["target_rejected"][these], alone["target_rejected"])
        first_target += M
    assert row["target_valid"].sum() == first_target
    assert (row["seg_positions"][first_target:] == -1).all()
    padding = row["branch"] == -1
    assert (~padding).sum() == rows.row_length(tokenizer, together, NUM_PATCHES)
    assert (row["labels"][padding] == rows.IGNORED).all() and (row["ids"][padding] == tokenizer.unk).all()


def test_dtypes_and_batch(tokenizer, conversations):
    made = [pack(tokenizer, [c], length=400, max_targets=6) for c in conversations]
    batch = rows.stack_rows(made)
    for name in ("ids", "positions", "branch", "labels"):
        assert (batch[name].dtype, batch[name].shape) == (np.int32, (5, 400))
    assert (batch["seg_positions"].dtype, batch["seg_positions"].shape) == (np.int32, (5, 6))
    for name in ("target_valid", "target_rejected"):
        assert (batch[name].dtype, batch[name].shape) == (np.bool_, (5, 6))
    assert batch["target_valid"].sum(axis=1).tolist() == [5, 3, 0, 1, 1]
    with pytest.raises(ValueError, match="ids has"):
        rows.stack_rows([made[0], pack(tokenizer, [conversations[0]])])


def test_text_without_a_picture(tokenizer):
    conversations = [encode(tokenizer, (f"Hello {name}", "Fine.")) for name in "ab"]
    row = pack(tokenizer, conversations)
    S = len(conversations[0].ids)
    assert (row["branch"] > 0).all()
    assert row["positions"].tolist() == list(range(S)) * 2
    assert row["labels"][:S].tolist() == [*conversations[0].labels[1:], rows.IGNORED]
    assert len(row["seg_positions"]) == 0


def test_prompt_to_continue(tokenizer):
    prompt = rows.encode_prompt(tokenizer, TEMPLATES["llava_v1"].prompt("<image>\nHello"))
    finished = encode(tokenizer, ("<image>\nHello", "Fine."))
    assert prompt.ids.tolist() == finished.ids[: len(prompt.ids)].tolist()
    assert (finished.labels[: len(prompt.ids)] == rows.IGNORED).all()
    assert finished.labels[len(prompt.ids)] == finished.ids[len(prompt.ids)]  # the first learned token
    assert (pack(tokenizer, [prompt])["labels"] == rows.IGNORED).all()


def test_truncation_keeps_lost_targets(tokenizer, conversations):
    """Cut to a length: what was lost is still a target, at no slot; other branches are untouched."""
    whole = pack(tokenizer, conversations[:2])
    cut_at = int(np.flatnonzero(conversations[0].ids == tokenizer.rej)[-1])  # third of five targets
    row = pack(tokenizer, conversations[:2], truncate=cut_at + NUM_PATCHES - 1)
    assert row["target_valid"].tolist() == [True] * 8
    assert row["target_rejected"].tolist() == whole["target_rejected"].tolist()
    assert row["seg_positions"][:2].tolist() == whole["seg_positions"][:2].tolist()
    assert row["seg_positions"][2:5].tolist() == [-1, -1, -1]
    alone = pack(tokenizer, [rows.Conversation(*(array[:cut_at] for array in conversations[0]))])
    first = row["branch"] <= 1
    np.testing.assert_array_equal(row["labels"][first], alone["labels"])
    np.testing.assert_array_equal(row["ids"][first], alone["ids"])
    assert (row["branch"] == 2).sum() == (whole["branch"] == 2).sum()
    unchanged = pack(tokenizer, conversations[:2], truncate=2000)
    np.testing.assert_array_equal(unchanged["ids"], whole["ids"])


def test_truncation_inside_the_picture(tokenizer, conversations):
    with pytest.raises(ValueError, match="cut there"):
        pack(tokenizer, conversations[:1], truncate=60)


@pytest.mark.parametrize("options", [{"length": 200}, {"max_targets": 4}])
def test_row_that_does_not_fit(tokenizer, conversations, options):
    (limit,) = options.values()
    with pytest.raises(ValueError, match=f"room for {limit}: .*top in the"):
        pack(tokenizer, conversations[:1], **options)


def test_long_expressions_are_named(tokenizer):
    expressions = ["dog", "cat " * 300, "bird"]
    rows.check_length(tokenizer, expressions, 1024, 1024)
    long = len(tokenizer.encode(expressions[1]))
    with pytest.raises(ValueError, match=rf"1500 .*takes 1024; the longest is number 2 with {long} tokens: 'cat"):
        rows.check_length(tokenizer, expressions, 1500, 1024)


def test_llama_2_and_plain_templates_pack(tokenizer):
    for template in ("llava_llama_2", "plain"):
        round_ = ("<image>\nWhat are dog in this image?", "Sure, they are dog:[SEG].")
        conversation = encode(tokenizer, round_, template=template)
        row = pack(tokenizer, [conversation])
        (slot,) = row["seg_positions"]
        assert row["ids"][slot + 1] == tokenizer.seg[0] == row["labels"][slot]
        learned = tokenizer.decode(row["labels"][row["labels"] != rows.IGNORED])
        assert learned.strip() == "Sure, they are dog:[SEG]." + TEMPLATES[template].end


def test_conversations_that_do_not_belong_together(tokenizer):
    one = encode(tokenizer, ("<image>\na", "b"))
    other_template = encode(tokenizer, ("<image>\na", "b"), template="plain")
    no_picture = encode(tokenizer, ("a", "b"))
    two_pictures = encode(tokenizer, ("<image> <image>\na", "b"))
    picture_last = encode(tokenizer, ("a", "b"), ("<image>\na", "b"))
    unknown = encode(tokenizer, ("<image>\na <unk>", "b"))
    for together, match in (
        ([one, other_template], "conversation 2 is unlike"),
        ([one, no_picture], "conversation 2 is unlike"),
        ([no_picture, one], "conversation 2 is unlike"),
        ([two_pictures], "2 times"),
        ([picture_last], "picture must come first"),
        ([unknown], "<unk>"),
    ):
        with pytest.raises(ValueError, match=match):
            pack(tokenizer, together)


@pytest.mark.parametrize("text", ["USER: only a question</s>", "USER: q ASSISTANT: a ASSISTANT: b</s>"])
def test_round_without_its_separator(tokenizer, text):
    with pytest.raises(ValueError, match="ASSISTANT"):
        rows.encode_conversation(tokenizer, text, SEPARATOR)
