"""Rounds of questions and answers as one text, and how text that others wrote gets into it harmlessly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from grounding_jax.language.tokenizer import IMAGE_TEXT

# A question and its answer.
Round = tuple[str, str]

# How a question about a picture begins.
PICTURE_LINE = f"{IMAGE_TEXT}\n"


@dataclasses.dataclass(frozen=True)
class Template:
    """How rounds of questions and answers become one text.

    Attributes:
        first: text before the first question.
        later: text before every later question.
        separator: text between a question and its answer; what follows it is learned.
        end: text after an answer.
        picture: text in the place of "<image>", for models that read marks around it.
    """

    first: str
    later: str
    separator: str
    end: str
    picture: str = IMAGE_TEXT

    def conversation(self, rounds: Sequence[Round]) -> str:
        """The text of finished rounds, "<image>" as the model reads it."""
        text = "".join(
            (self.later if number else self.first) + question + self.separator + answer + self.end
            for number, (question, answer) in enumerate(rounds)
        )
        return text.replace(IMAGE_TEXT, self.picture)

    def prompt(self, question: str, earlier: Sequence[Round] = ()) -> str:
        """The text up to where the model starts to write, such as "... ASSISTANT:" (spec gsva a.12)."""
        text = self.conversation([*earlier, (question, "")])
        return text.removesuffix(self.separator + self.end) + self.separator.rstrip()


_TOKENS = re.compile(
    r"\[(SEG\d*|REJ|PAD|/?INST)\]|<(/?s|unk|pad|image|im_start|im_end|im_patch|SEG)>|(?-i:(ASSISTANT):)",
    re.IGNORECASE,
)


def defuse(text: str) -> str:
    """Takes the meaning from what would be read as a special token or as the end of a question.

    "[SEG]" and "<SEG>" become "SEG", "<image>" "image", "</s>" "/s", "ASSISTANT:" "ASSISTANT"; tokens in any case of
    letters, because questions may be lower-cased later.
    """
    before = None
    while text != before:  # "[[SEG]]" takes two turns
        before, text = text, _TOKENS.sub(lambda found: found[found.lastindex], text)
    return text


def one_line(text: str) -> str:
    """A text as it fits into a sentence: single spaces, no dots at the ends, `defuse`d; nothing may be left."""
    return " ".join(defuse(text).split()).strip(" .")


def talk_rounds(turns: Sequence[dict[str, str]]) -> list[Round]:
    """Rounds of a LLaVA-Instruct conversation, "<image>" moved to the front of its question (spec gsva c.4).

    Args:
        turns: ``{"from": "human" or "gpt", "value": text}`` in alternation; a first one by "gpt" is dropped.

    Raises:
        ValueError: the turns do not alternate, or the last question has no answer.
    """
    turns = list(turns)[1:] if turns and turns[0]["from"] == "gpt" else list(turns)
    speakers = [turn["from"] for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise ValueError(f"a conversation goes human, gpt, human, gpt, ..., but this one {', '.join(speakers)}")
    texts = [_picture_first(turn["value"]) for turn in turns]
    return list(zip(texts[::2], texts[1::2], strict=True))


def _picture_first(text: str) -> str:
    if IMAGE_TEXT not in text:
        return defuse(text)
    return (PICTURE_LINE + defuse(text.replace(IMAGE_TEXT, "")).strip()).strip()
