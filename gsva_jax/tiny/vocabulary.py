"""The vocabulary of the tiny model: every word of the scenes and of the prompts is one token (docs/tiny.md)."""

from __future__ import annotations

from grounding_jax.data.scenes.cutouts import KINDS
from grounding_jax.data.scenes.expressions import vocabulary_texts
from grounding_jax.language import tokenizer
from grounding_jax.language.tokenizer import Tokenizer
from gsva_jax import prompts
from gsva_jax.config import GsvaConfig


def tiny_tokenizer() -> Tokenizer:
    """Made anew from the texts, always the same."""
    words = " ".join(vocabulary_texts())
    template = prompts.TEMPLATES["plain"]
    questions = [prompts.list_question([words], i) for i in range(len(prompts.LIST_QUESTIONS))]
    answers = [prompts.list_answer([words], [False], i) for i in range(len(prompts.LIST_ANSWERS))]
    rounds = list(zip(questions, answers, strict=False))
    # The official evaluation glues the last word of the question to "in" and the first of the answer to a comma.
    nouns = [noun for kind in KINDS for noun in (kind.noun, kind.plural)]
    rounds += [prompts.official_list([noun], [False]) for noun in (*nouns, "the", "all")]
    return tokenizer.train([template.conversation([turn]) for turn in rounds] + answers)


def tiny_config(sam_size: int = 144) -> GsvaConfig:
    """The sizes that go with `tiny_tokenizer`."""
    return GsvaConfig.tiny(tiny_tokenizer().vocab_size, sam_size)
