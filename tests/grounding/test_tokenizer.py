"""The frozen tokenizer against stored ids and sentencepiece; the small vocabulary; answers read from ids."""

import json
import pickle
import random

import pytest
import sentencepiece

from grounding_jax.language import tokenizer as tokenizers
from grounding_jax.language.answers import Decision, read_answer

pytestmark = pytest.mark.quick

TEXTS = (
    "USER: <im_start><image><im_end>\nWhat are the dog on the left, all cats in this image? ASSISTANT: "
    "Sure, they are the dog on the left:[SEG], T-shirt:[REJ].</s>",
)


@pytest.fixture(scope="module")
def frozen(golden):
    return tokenizers.freeze(golden / "gsva" / "tiny-llava")


@pytest.fixture(scope="module")
def small():
    return tokenizers.train(TEXTS)


def llava_folder(golden, folder, added):
    """A copy of the stored LLaVA folder whose tokenizer already has some added tokens."""
    for name in ("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((golden / "gsva" / "tiny-llava" / name).read_bytes())
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def test_ids_of_the_meaningful_tokens(golden, frozen):
    config = json.loads((golden / "gsva" / "config.json").read_text())
    assert (frozen.unk, frozen.bos, frozen.eos) == (config["pad_id"], config["bos"], config["eos"])
    assert (frozen.seg, frozen.rej) == ((config["seg_token_idx"],), config["rej_token_idx"])
    assert (frozen.im_start, frozen.im_end) == (config["im_start"], config["im_end"])
    assert frozen.vocab_size == config["len_tokenizer"]


@pytest.mark.parametrize("declared", [True, False], ids=["new", "old"])
def test_folder_that_has_the_image_tokens_already(golden, tmp_path, declared):
    folder = llava_folder(golden, tmp_path, {"<im_end>": 422, "<im_patch>": 420, "<im_start>": 421})
    if not declared:  # as transformers wrote folders in LLaVA's time
        config = json.loads((folder / "tokenizer_config.json").read_text())
        del config["added_tokens_decoder"]
        for name in ("bos_token", "eos_token", "unk_token"):
            flags = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
            config[name] = {"__type": "AddedToken", "content": config[name], **flags}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    frozen = tokenizers.freeze(folder)
    assert (frozen.im_start, frozen.im_end, frozen.seg, frozen.rej) == (421, 422, (423,), 424)
    assert frozen.vocab_size == 425
    assert frozen.encode("<im_end>\n") == [422, *frozen.encode("\n")]


def test_folder_whose_added_tokens_do_not_follow_the_vocabulary(golden, tmp_path):
    with pytest.raises(ValueError, match="<im_patch> the id 430, but .* 420"):
        tokenizers.freeze(llava_folder(golden, tmp_path, {"<im_patch>": 430}))


def test_without_rejection(golden):
    lisa = tokenizers.freeze(golden / "gsva" / "tiny-llava", ("[SEG]", "<im_start>", "<im_end>"))
    assert (lisa.seg, lisa.rej, lisa.im_start, lisa.im_end, lisa.vocab_size) == ((420,), None, 421, 422, 423)


def test_one_token_behind_a_vocabulary_as_published(golden, tmp_path):
    """GELLA has [SEG] only, behind what Hugging Face's LLaVA-1.5 adds to LLaMA's pieces (spec gella A9)."""
    plain = tokenizers.freeze(llava_folder(golden, tmp_path, {"<image>": 420, "<pad>": 421}), tokens=())
    assert (plain.seg, plain.rej, plain.im_start, plain.im_end, plain.vocab_size) == ((), None, None, None, 422)
    own, before = tokenizers.with_targets(plain, ["[SEG]"])
    assert (own.seg, own.vocab_size, before) == ((422,), 423, (*range(422), -1))
    text = "the dog [SEG], and a cat [SEG].</s>"
    assert own.encode(text).count(422) == 2 and own.decode(own.encode(text)) == text
    assert own.encode_with_image("<image>\nthe dog") == plain.encode_with_image("<image>\nthe dog")
    again, before = tokenizers.with_targets(own, ["[SEG]"])
    assert again.backend.to_str() == own.backend.to_str() and before == tuple(range(423))


@pytest.mark.parametrize("template", ["llava_v1", "llava_llama_2"])
def test_stored_prompts(golden, frozen, template):
    stored = json.loads((golden / "gsva" / "prompts.json").read_text())[template]
    for text, ids in zip(stored["conversations"], stored["input_ids"], strict=True):
        assert frozen.encode_with_image(text) == ids
        assert frozen.decode(ids) == "<s>" + text


def test_stretches_of_text_are_those_of_sentencepiece(golden, frozen):
    model = sentencepiece.SentencePieceProcessor(model_file=str(golden / "gsva/tiny-llava/tokenizer.model"))
    draw = random.Random(0)
    parts = [" ", "  ", "\n", "\t", "a", "the", " red", "dog", ".", ",", "12", "é", "中", "😀", "\u2581"]
    for _ in range(500):
        text = "".join(draw.choices(parts, k=draw.randint(0, 12)))
        assert frozen.encode(text) == model.encode(text), text
        # Between added tokens, too; this is where transformers alone differs.
        assert frozen.encode(f"[SEG]{text}</s>") == [*frozen.seg, *model.encode(text), frozen.eos], text


def test_save_and_load(frozen, tmp_path):
    frozen.save(tmp_path)
    loaded = tokenizers.load_tokenizer(tmp_path)
    text = "<im_start><image><im_end>\ncafé 😀 [SEG], [REJ].</s>"
    assert loaded.encode_with_image(text) == frozen.encode_with_image(text)
    assert (loaded.seg, loaded.rej, loaded.added) == (frozen.seg, frozen.rej, frozen.added)
    assert pickle.loads(pickle.dumps(loaded)).encode(text) == frozen.encode(text)  # for worker processes


def test_several_seg_tokens(frozen, tmp_path):
    state = json.loads(frozen.backend.to_str())
    for number in range(3):
        token = {
            **state["added_tokens"][-1],
            "id": frozen.vocab_size + number,
            "content": f"[SEG{number:03d}]",
        }
        state["added_tokens"].append(token)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    assert tokenizers.load_tokenizer(tmp_path).seg == (420, 424, 425, 426)


@pytest.mark.parametrize("make", [tokenizers.load_tokenizer, tokenizers.freeze])
def test_missing_file(make, tmp_path):
    with pytest.raises(FileNotFoundError, match="tokenizer"):
        make(tmp_path)


@pytest.mark.parametrize("content", ["{}", "", "not json", '{"version": "1.0", "model": {"type": "BPE"}}'])
def test_broken_file(content, tmp_path):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="tokenizer.json"):
        tokenizers.load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [0, 100, 3000])
def test_truncated_sentencepiece_model(golden, tmp_path, size):
    folder = llava_folder(golden, tmp_path, {})
    (folder / "tokenizer.model").write_bytes((folder / "tokenizer.model").read_bytes()[:size])
    with pytest.raises(ValueError, match=f"tokenizer.model .{size} bytes"):
        tokenizers.freeze(folder)


def move_ids(state):
    state["model"]["vocab"] = {piece: i + 10**6 for piece, i in state["model"]["vocab"].items()}


@pytest.mark.parametrize(
    "damage, message",
    [
        (move_ids, r"tokenizer\.json: the ids of its .* tokens are not numbered through"),
        (lambda state: state.update(decoder=None), r"tokenizer\.json: not of LLaMA's kind, 'a a' becomes"),
        (
            lambda state: state["model"].update(vocab={}, merges=[]),
            r"tokenizer\.json: not of LLaMA's kind, 'a a' becomes ''",
        ),
    ],
)
def test_a_vocabulary_that_does_not_work(frozen, tmp_path, damage, message):
    frozen.save(tmp_path)
    state = json.loads((tmp_path / "tokenizer.json").read_text())
    damage(state)
    (tmp_path / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=message):
        tokenizers.load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"<pad>": "x"}', '{"<pad>": 1.5}', "[" * 100_000])
def test_added_tokens_without_ids(golden, tmp_path, content):
    llava_folder(golden, tmp_path, {})
    (tmp_path / "added_tokens.json").write_text(content)
    with pytest.raises(ValueError, match=r"added_tokens\.json .*it should give tokens their ids"):
        tokenizers.freeze(tmp_path)


def test_a_tokenizer_config_that_makes_no_tokenizer(golden, tmp_path):
    llava_folder(golden, tmp_path, {})
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no tokenizer can be made of tokenizer\.model, tokenizer_config\.json"):
        tokenizers.freeze(tmp_path)


def test_not_text(frozen):
    with pytest.raises(ValueError, match="Unicode"):
        frozen.encode("dog \udcff")
    with pytest.raises(ValueError, match="424"):
        frozen.decode([5, 424])


def test_small_vocabulary_has_words_and_spells_the_rest(small):
    assert (small.unk, small.bos, small.eos) == (0, 1, 2)
    assert small.vocab_size == small.im_end + 1 == small.seg[0] + 4
    for word in ("dog", "left", "all", "T-shirt", "USER", "ASSISTANT"):
        assert len(small.encode(word)) == 1, word
    assert len(small.encode("zebra")) == 1 + len("zebra")
    assert small.encode("\n")[-1] == 3 + ord("\n")
    assert small.encode("é")[-2:] == [3 + 0xC3, 3 + 0xA9]


def test_small_vocabulary_gives_back_what_it_read(small):
    for text in (*TEXTS, "zebra's  😀 \t中, [SEG]x</s>", " a", ""):
        assert small.decode(small.encode_with_image(text)) == "<s>" + text
    assert small.unk not in small.encode("\x00 ☃ \u2028 " + "".join(map(chr, range(1, 300))))


def test_small_vocabulary_does_not_depend_on_order():
    words = [f"word {name}, other" for name in ("cat", "dog", "umbrella")]
    made = {tokenizers.train(order).backend.to_str() for order in (words, words[::-1], words * 2)}
    assert len(made) == 1


def test_instruction_ends_in_the_same_tokens_with_and_without_an_answer(small):
    question = small.encode("USER: x ASSISTANT: ")
    assert small.encode("USER: x ASSISTANT: Sure")[: len(question) - 1] == question[:-1]


def test_answer_gives_decisions_in_order(frozen):
    ids = frozen.encode("Sure, they are a:[SEG], b:[REJ], c:[SEG].</s>") + frozen.encode("[SEG]")
    answer = read_answer(frozen, ids, 3)
    first, second, third = (i for i, token in enumerate(ids[:-1]) if token in (*frozen.seg, frozen.rej))
    assert answer.decisions == (Decision(first, False), Decision(second, True), Decision(third, False))
    assert (answer.missing, answer.surplus, answer.finished) == (0, 0, True)
    assert answer.text == "Sure, they are a:[SEG], b:[REJ], c:[SEG]."


def test_answer_with_too_few_and_too_many(frozen):
    ids = frozen.encode("a:[REJ], b:[SEG]")
    few, many, free = (read_answer(frozen, ids, asked) for asked in (4, 1, None))
    assert few.decisions[2:] == (None, None) and (few.missing, few.surplus) == (2, 0)
    assert [d.rejected for d in many.decisions] == [True] and (many.missing, many.surplus) == (0, 1)
    assert [d.rejected for d in free.decisions] == [True, False] and not free.finished


def test_answer_without_anything(frozen):
    assert read_answer(frozen, [], 2).decisions == (None, None)
    assert read_answer(frozen, [frozen.eos], None).text == ""
