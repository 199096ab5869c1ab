"""What is said to a GSVA and what it answers, in the words of the release (spec gsva c.2-c.6).

The functions are pure: a caller that samples draws the index and hands it over. Text that comes from users or
datasets passes `clean_expression`, `clean_sentence` or `defuse`, so that it cannot spell a token with a
meaning.
"""

from __future__ import annotations

from collections.abc import Sequence

from grounding_jax.language.conversation import PICTURE_LINE, Round, Template, defuse, one_line
from grounding_jax.language.tokenizer import (
    EOS_TEXT,
    IM_END_TEXT,
    IM_START_TEXT,
    IMAGE_TEXT,
    REJ_TEXT,
    SEG_TEXT,
)

_MARKED_PICTURE = IM_START_TEXT + IMAGE_TEXT + IM_END_TEXT
_VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
_LLAMA2_SYSTEM = (
    "You are a helpful language and vision assistant. "
    "You are able to understand the visual content that the user provides, "
    "and assist the user with a variety of tasks using natural language."
)
TEMPLATES = {
    "llava_v1": Template(f"{_VICUNA_SYSTEM} USER: ", "USER: ", " ASSISTANT: ", EOS_TEXT, _MARKED_PICTURE),
    "llava_llama_2": Template(
        f"[INST] <<SYS>>\n{_LLAMA2_SYSTEM}\n<</SYS>>\n\n", "<s>[INST] ", " [/INST] ", f" {EOS_TEXT}", _MARKED_PICTURE
    ),
    # Ours, for tiny models: a system prompt would be most of what they read.
    "plain": Template("USER: ", "USER: ", " ASSISTANT: ", EOS_TEXT, _MARKED_PICTURE),
}

LIST_QUESTIONS = (
    "Can you segment {} in this image?",
    "Please segment {} in this image.",
    "What are {} in this image? Please respond with segmentation masks.",
    "What are {} in this image? Please output segmentation masks.",
)
# Start of the answer, and what is said of each target: its expression, then its token.
LIST_ANSWERS = (
    ("The segmentation results are", "{} {}"),
    ("Sure, they are", "{}:{}"),
    ("Sure,", "the mask of {} is {}"),
    ("Sure,", "the segmentation of {} is {}"),
    ("Sure,", "the referred {} is {}"),
)
# SemSeg's answers lack the space after the comma (quirk 10).
RES_JOINER, SEMSEG_JOINER = ", ", ","

SHORT_QUESTIONS = (
    "Can you segment the {} in this image?",
    "Please segment the {} in this image.",
    "What is {} in this image? Please respond with segmentation mask.",
    "What is {} in this image? Please output segmentation mask.",
)
LONG_QUESTIONS = ("{} Please respond with segmentation mask.", "{} Please output segmentation mask.")
EXPLANATORY_REQUESTS = (
    "Please output segmentation mask and explain why.",
    "Please output segmentation mask and explain the reason.",
    "Please output segmentation mask and give some explaination.",  # [sic]: the released models learned it so
)
SINGLE_ANSWERS = (
    f"It is {SEG_TEXT}.",
    f"Sure, {SEG_TEXT}.",
    f"Sure, it is {SEG_TEXT}.",
    f"Sure, the segmentation result is {SEG_TEXT}.",
    f"{SEG_TEXT}.",
)

# How the release's evaluation asks for several expressions (spec gsva c.6), and the forms that the paper tries instead
# (spec gsva i). The missing spaces are part of the protocol (quirk 4); no training prompt is like the last two.
OFFICIAL_QUESTIONS = {
    "what": "What are {}in this image? Please output segmentation masks.",
    "where": "Where are {}in this image? Please output segmentation masks.",
    "show": "Show me {} in the image with segmentation masks",
    "outline": "Outline {} in this image with segmentation masks",
}

# Wording of guided prediction, both known from training. The answer is one of the two shortest per target,
# and its "expression:token" is what the release's evaluation writes.
GUIDED_QUESTION, GUIDED_ANSWER = 2, 1
GUIDED_SHORT_QUESTION, GUIDED_SINGLE_ANSWER = 3, 2


def clean_expression(text: str) -> str:
    """A user's expression as prompts take it: single spaces, no dots at the ends, `defuse`d.

    Raises:
        ValueError: nothing is left.
    """
    cleaned = one_line(text)
    if not cleaned:
        raise ValueError(f"the expression {text!r} is empty: name what to look for, like 'the dog on the left'")
    return cleaned


def clean_sentence(text: str) -> str:
    """A dataset's expression as the release takes it: no spaces, then no dots at the ends (spec gsva c.4)."""
    return defuse(text).strip().strip(".")


def list_question(targets: Sequence[str], index: int) -> str:
    """Asks for several targets in the words `LIST_QUESTIONS[index]`; lower-cased (spec gsva c.3)."""
    return PICTURE_LINE + LIST_QUESTIONS[index].format(", ".join(targets).lower())


def list_answer(targets: Sequence[str], rejected: Sequence[bool], index: int, joiner: str = RES_JOINER) -> str:
    """Names every target with "[SEG]" or "[REJ]" in the words `LIST_ANSWERS[index]` (spec gsva c.3).

    Args:
        targets: expressions, in their own case.
        rejected: True for each that is not in the picture.
        index: index of the wording.
        joiner: `RES_JOINER` or `SEMSEG_JOINER`.
    """
    start, part = LIST_ANSWERS[index]
    return f"{start} {joiner.join(_parts(part, targets, rejected))}."


def single_question(text: str, is_sentence: bool, index: int) -> str:
    """Asks for one target, as ReasonSeg does (spec gsva c.3).

    Args:
        text: a whole instruction or a short phrase, `defuse`d.
        is_sentence: True for a sentence, asked with `LONG_QUESTIONS`; a name is asked for with `SHORT_QUESTIONS`.
        index: index of the wording.
    """
    if is_sentence:
        return PICTURE_LINE + LONG_QUESTIONS[index].format(text)
    return PICTURE_LINE + SHORT_QUESTIONS[index].format(text.lower())


def explanatory_question(text: str, index: int | None) -> str:
    """Asks for one target and an explanation; the explanation alone if the index is None (spec gsva c.4)."""
    return PICTURE_LINE + (text if index is None else f"{text} {EXPLANATORY_REQUESTS[index]}")


def single_answer(index: int, explanation: str = "") -> str:
    """Gives one mask in the words `SINGLE_ANSWERS[index]`, and says why if there is an explanation."""
    return f"{SINGLE_ANSWERS[index]} {explanation}" if explanation else SINGLE_ANSWERS[index]


def official_list(sentences: Sequence[str], rejected: Sequence[bool], question: str = "what") -> Round:
    """The round of the release's evaluation on RES datasets (spec gsva c.6).

    Its missing spaces are part of the protocol (quirk 4): published numbers were made with them.

    Args:
        sentences: all expressions of a picture, as in the dataset.
        rejected: True for each with an empty ground truth.
        question: one of `OFFICIAL_QUESTIONS`.
    """
    sentences = [clean_sentence(sentence.lower()) for sentence in sentences]
    asked = OFFICIAL_QUESTIONS[question].format(", ".join(sentences))
    return f"{PICTURE_LINE} {asked}", f"Sure,{', '.join(_parts('{}:{}', sentences, rejected))}."


def official_single(text: str, is_sentence: bool) -> Round:
    """The round of the release's evaluation on ReasonSeg (spec gsva c.6)."""
    text = defuse(text).strip()
    asked = text if is_sentence else f"What is {text} in this image?"
    return f"{PICTURE_LINE} {asked} Please output segmentation mask.", SEG_TEXT


def official_class(name: str) -> Round:
    """The round of the paper's evaluation on ADE20K, about one class that is there (spec gsva f.5).

    No program of it was released: that "<image>" is followed as in the release's other evaluations is our reading.
    """
    return f"{PICTURE_LINE} What is {defuse(name)} in this image?", f"Sure, {SEG_TEXT}"


def guided_list(expressions: Sequence[str], rejected: Sequence[bool] | None = None) -> Round:
    """The fixed wording in which the model chooses "[SEG]" or "[REJ]" for each expression.

    Args:
        expressions: through `clean_expression`.
        rejected: choices to write down; none rejected by default.
    """
    rejected = [False] * len(expressions) if rejected is None else rejected
    return list_question(expressions, GUIDED_QUESTION), list_answer(expressions, rejected, GUIDED_ANSWER)


def guided_single(expression: str) -> Round:
    """The fixed wording for models that know one target a question and no "[REJ]" (LISA)."""
    return single_question(expression, False, GUIDED_SHORT_QUESTION), single_answer(GUIDED_SINGLE_ANSWER)


def free_question(text: str) -> str:
    """A question about the picture in the user's own words.

    Raises:
        ValueError: it is empty.
    """
    cleaned = defuse(text).strip()
    if not cleaned:
        raise ValueError("the question is empty: ask something about the picture")
    return PICTURE_LINE + cleaned


def _parts(part: str, targets: Sequence[str], rejected: Sequence[bool]) -> list[str]:
    """What is said of each target; the token is chosen, not replaced in the finished text (quirk 24)."""
    tokens = [REJ_TEXT if no else SEG_TEXT for no in rejected]
    return [part.format(target, token) for target, token in zip(targets, tokens, strict=True)]
