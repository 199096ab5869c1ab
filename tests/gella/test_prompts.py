"""GELLA's questions and answers against the words of the paper, and answers read back."""

import random

import numpy as np
import pytest

from gella_jax import prompts
from gella_jax.prompts import TEMPLATES
from grounding_jax.data.sources.panoptic_classes import COCO_PANOPTIC
from grounding_jax.language import rows
from grounding_jax.language import tokenizer as tokenizers

pytestmark = pytest.mark.quick

CAPTION = "A dog lies on a couch."
HARD_NOUNS = (
    "salt and pepper",
    "black and white dog",
    "and",
    "and-gate",
    "a sandwich, half eaten, and chips",
    "2 dogs",
    "number 42",
    "1,000 balloons",
    "including the semantic nouns",
    "there are two semantic nouns, including this",
    "semantic noun: a book",
    "is",
    "St. Bernard",
    "the man's T-shirt",
    "a {} [x] <b> cup",
    "das Mädchen",
    "左边的狗",
)


def test_conversation_of_the_paper():
    text = TEMPLATES["vicuna_v1"].conversation([(prompts.nouns_question(CAPTION, 1), prompts.nouns_answer(["A dog"]))])
    assert text == (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the user's questions. USER: <image>\nPlease help me extract each semantic "
        "noun of the sentence. The sentence is A dog lies on a couch. ASSISTANT: There is one semantic noun: A dog "
        "[SEG].</s>"
    )
    prompt = TEMPLATES["vicuna_v1"].prompt(prompts.describe_question())
    assert prompt.endswith("USER: <image>\nPlease help me describe the image. ASSISTANT:")


def test_questions_of_evaluation_and_training():
    evaluated = (
        "<image>\nPlease help me extract each semantic noun from the sentence. The sentence is A dog on a couch."
    )
    for sentence in ("A dog on a couch", "A dog on a couch.", " A dog\n on a couch .."):
        assert prompts.nouns_question(sentence) == evaluated
    assert prompts.nouns_question(CAPTION, 2) == (
        "<image>\nPlease help me extract semantic nouns of this sentence: A dog lies on a couch."
    )
    assert prompts.nouns_question("a {} cup").endswith("The sentence is a {} cup.")
    with pytest.raises(ValueError, match="empty"):
        prompts.nouns_question(" . ")


def test_paraphrases():
    assert len(prompts.DESCRIPTION_QUESTIONS) == 1 + 10 and len(prompts.NOUN_QUESTIONS) == 3 + 10
    for questions, places in ((prompts.DESCRIPTION_QUESTIONS, 0), (prompts.NOUN_QUESTIONS, 1)):
        assert len(set(questions)) == len(questions)
        for question in questions:
            assert question == question.strip() and question[-1] in ".?"
            assert question.count("{}") == question.count("{") == question.count("}") == places
            assert not any(token in question for token in ("[SEG]", "<image>", "ASSISTANT"))
    asked = {prompts.nouns_question(CAPTION, i) for i in range(len(prompts.NOUN_QUESTIONS))}
    assert len(asked) == len(prompts.NOUN_QUESTIONS) and all(CAPTION in question for question in asked)


def test_answer_counts_in_words():
    assert prompts.nouns_answer([]) == "There are no semantic nouns."
    assert prompts.nouns_answer(["dog"]) == "There is one semantic noun: dog [SEG]."
    assert prompts.nouns_answer(["a", "b"]) == "There are two semantic nouns, including a [SEG] and b [SEG]."
    assert prompts.nouns_answer(["a", "b", "c"]) == (
        "There are three semantic nouns, including a [SEG], b [SEG] and c [SEG]."
    )
    assert prompts.nouns_answer([f"n{i}" for i in range(21)]).startswith(
        "There are twenty one semantic nouns, including n0 [SEG], n1 [SEG],"
    )
    with pytest.raises(ValueError, match=r"noun 2 of 2 is ' \.'"):
        prompts.nouns_answer(["dog", " ."])
    with pytest.raises(ValueError, match="0 to 999 nouns, not 1000"):
        prompts.nouns_answer(["dog"] * 1000)


def test_numbers_in_words():
    known = {0: "zero", 7: "seven", 12: "twelve", 19: "nineteen", 20: "twenty", 21: "twenty one", 99: "ninety nine"}
    known |= {100: "one hundred", 101: "one hundred one", 133: "one hundred thirty three", 210: "two hundred ten"}
    known |= {999: "nine hundred ninety nine"}
    assert {number: prompts.in_words(number) for number in known} == known
    spelled = {prompts.in_words(number) for number in range(1000)}
    assert len(spelled) == 1000
    assert all(word.isalpha() for text in spelled for word in text.split(" "))
    for number in (-1, 1000):
        with pytest.raises(ValueError, match=str(number)):
            prompts.in_words(number)


@pytest.mark.parametrize("noun", HARD_NOUNS)
def test_hard_noun_comes_back_from_every_place(noun):
    for nouns in ([noun], [noun, "x"], ["x", noun], [noun, noun], ["x", noun, "y"], [noun] * 4):
        assert prompts.read_nouns(prompts.nouns_answer(nouns)) == nouns


def test_lists_of_any_nouns_come_back():
    rng = random.Random(0)
    parts = (
        *HARD_NOUNS,
        "and",
        "dog",
        ",",
        ".",
        "7",
        ", and",
        "including",
        "there are",
        "[SEG]",
        "<SEG>",
        "semantic noun",
    )
    for _ in range(2000):
        raw = [" ".join(rng.choices(parts, k=rng.randint(1, 4))) for _ in range(rng.randint(0, 6))]
        nouns = [noun for noun in map(prompts.clean_noun, raw) if noun]
        assert prompts.read_nouns(prompts.nouns_answer(nouns)) == nouns
        assert [prompts.clean_noun(noun) for noun in nouns] == nouns


def test_clean_noun():
    cleaned = {"the dog ,": "the dog", " a\n dog. ": "a dog", "and truck": "truck", "and , and a cat": "a cat"}
    cleaned |= {"and": "and", "sand and stone": "sand and stone", "android": "android", "[SEG] dog": "SEG dog", ",": ""}
    assert {text: prompts.clean_noun(text) for text in cleaned} == cleaned


@pytest.mark.parametrize(
    "answer, nouns",
    [
        ("There are semantic nouns, including a dog [SEG] and a cat [SEG].", ["a dog", "a cat"]),
        ("There are 2 semantic nouns including a dog [SEG], and a cat [SEG].", ["a dog", "a cat"]),
        ("There are nine nouns: a dog [SEG] , , a cat [SEG]", ["a dog", "a cat"]),
        (
            "There are three, including a dog [SEG] and a cat [SEG] and noun phrases [SEG]",
            ["a dog", "a cat", "noun phrases"],
        ),
        ("there is one semantic noun, including, a dog, [SEG].", ["a dog"]),
        ("There is a dog [SEG].", ["a dog"]),
        ("a dog [SEG], a cat [SEG] lie there", ["a dog", "a cat"]),
        ("There are two semantic nouns, including a dog <SEG> and a cat [SEG007].", ["a dog", "a cat"]),
        ("There are two semantic nouns, including a dog[SEG] and[SEG].", ["a dog", "and"]),
        ("There are two semantic nouns, including [SEG], a cat [SEG].", ["", "a cat"]),
        ("[SEG][SEG]", ["", ""]),
        ("There are two semantic nouns, including a dog [SEG], a ca", ["a dog"]),
        ("There are no semantic nouns.", []),
        ("I see a dog.", []),
        ("", []),
    ],
)
def test_answers_of_another_form(answer, nouns):
    assert prompts.read_nouns(answer) == nouns


def test_spellings_of_the_token():
    assert prompts.own_tokens("a dog <SEG> and a cat [SEG]") == "a dog [SEG] and a cat [SEG]"
    assert prompts.description_answer(" One <SEG> dog.\n\nIt</s> sleeps. ") == "One SEG dog.\n\nIt/s sleeps."
    assert "SEG>" not in prompts.nouns_question("a <SEG> dog")
    assert prompts.nouns_answer(["[SEG] dog <seg>"]) == "There is one semantic noun: SEG dog seg [SEG]."


def test_spans_are_the_first_unused_ones():
    assert prompts.find_spans(["A dog", "a couch"], CAPTION) == [(0, 5), (14, 21)]
    caption = "A DOG and a dog; the  hotdog\nstand."
    found = prompts.find_spans(["a dog", "A Dog", "a dog", "the hotdog stand", "", "cat"], caption)
    assert found == [(0, 5), (10, 15), None, (17, 34), None, None]
    assert prompts.find_spans(["dog", "dog", "dog"], "hotdogs, a dog") == [(11, 14), (3, 6), None]
    assert prompts.find_spans(["hot dog", "dog"], "the hot dog and the dog") == [(4, 11), (20, 23)]
    assert prompts.find_spans(["a.c", "(x"], "abc a.c (x)") == [(4, 7), (8, 10)]
    assert prompts.find_spans(["aba", "aba"], "xababaa") == [(1, 4), None]
    assert prompts.find_spans(["ba", "aba"], "ba aba") == [(0, 2), (3, 6)]


def test_spans_of_any_caption():
    rng = random.Random(1)
    for _ in range(500):
        words = rng.choices(("dog", "hot", "Dog", "doghouse", "a", "and", "İ"), k=rng.randint(1, 9))
        caption = " ".join(words)
        nouns = [" ".join(rng.choices(("dog", "hot", "a", "house", "cat"), k=rng.randint(1, 2))) for _ in range(4)]
        spans = prompts.find_spans(nouns, caption)
        taken = sorted(span for span in spans if span)
        assert all(before[1] <= after[0] for before, after in zip(taken, taken[1:], strict=False))
        assert (spans[0] is None) == (nouns[0] not in caption.lower())
        for noun, span in zip(nouns, spans, strict=True):
            assert span is None or caption[slice(*span)].lower() == noun


def test_panoptic_caption_has_every_category():
    names = [category.spoken for category in COCO_PANOPTIC]
    caption = prompts.panoptic_caption(names)
    assert caption.startswith("There might exist a person, bicycle, car, ") and caption.endswith(", wall and rug.")
    answer = prompts.nouns_answer(names)
    assert answer.startswith("There are one hundred thirty three semantic nouns, including person [SEG], bicycle")
    assert prompts.read_nouns(answer) == names
    spans = prompts.find_spans(names, caption)
    assert [caption[slice(*span)] for span in spans] == names and spans == sorted(spans)
    assert prompts.panoptic_caption(["dog"]) == "There might exist a dog."
    assert prompts.panoptic_caption(["dog", "cat"]) == "There might exist a dog and cat."


@pytest.mark.parametrize(
    "names, match",
    [(["dog", "cat", "Dog "], "'dog' more than once"), ([], "needs names"), (["dog", "."], "needs names")],
)
def test_unusable_vocabulary(names, match):
    with pytest.raises(ValueError, match=match):
        prompts.panoptic_caption(names)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_rows_have_a_target_for_each_noun(template):
    nouns = [*HARD_NOUNS, "x [SEG] y", "x ASSISTANT: y", "<image></s>"]
    rounds = [(prompts.nouns_question(", ".join(nouns)), prompts.nouns_answer(nouns))]
    text = TEMPLATES[template].conversation(rounds)
    tokenizer = tokenizers.train([CAPTION])
    conversation = rows.encode_conversation(tokenizer, text, TEMPLATES[template].separator)
    row = rows.pack_row(tokenizer, [conversation], num_patches=4)
    assert len(row["seg_positions"]) == len(nouns) and not row["target_rejected"].any()
    np.testing.assert_array_equal(row["ids"][row["seg_positions"] + 1], tokenizer.seg[0])
    learned = tokenizer.decode(row["labels"][row["labels"] != rows.IGNORED])
    assert learned.strip() == rounds[0][1] + "</s>"
    assert prompts.read_nouns(learned) == [prompts.clean_noun(noun) for noun in nouns]
