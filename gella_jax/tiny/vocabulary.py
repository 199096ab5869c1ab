"""The vocabulary of the tiny model: every word of the scenes, their captions and the prompts is one token."""

from __future__ import annotations

from gella_jax import prompts
from gella_jax.config import GellaConfig
from grounding_jax.data.scenes import expressions, narratives
from grounding_jax.data.scenes.narrated import CATEGORIES
from grounding_jax.language import tokenizer
from grounding_jax.language.tokenizer import SEG_TEXT, Tokenizer

_MOST_COUNTED = 60  # nouns of an answer whose number is one token a word


def tiny_tokenizer() -> Tokenizer:
    """Made anew from the texts, always the same."""
    words = [*expressions.vocabulary_texts(), *narratives.vocabulary_texts()]
    words += [word for count in range(_MOST_COUNTED) for word in prompts.in_words(count).split()]
    sentence, template = " ".join(dict.fromkeys(words)), prompts.TEMPLATES["plain"]
    names = [category.name for category in CATEGORIES]
    answers = [prompts.nouns_answer(nouns) for nouns in ([], names[:1], names)]
    questions = [
        prompts.nouns_question(text, i)
        for text in (sentence, prompts.panoptic_caption(names))
        for i in range(len(prompts.NOUN_QUESTIONS))
    ]
    questions += [prompts.describe_question(i) for i in range(len(prompts.DESCRIPTION_QUESTIONS))]
    rounds = [(question, answer) for question in questions for answer in (*answers, f"{sentence}.")]
    return tokenizer.train([template.conversation([turn]) for turn in rounds], (SEG_TEXT,))


def tiny_config() -> GellaConfig:
    """The sizes that go with `tiny_tokenizer`."""
    return GellaConfig.tiny(tiny_tokenizer().vocab_size)
