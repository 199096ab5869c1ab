"""Paragraphs in which some words stand in the colour of a target."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from grounding_jax.drawing.legend import BACKGROUND, QUIET, TEXT, colour
from grounding_jax.drawing.lettering import Lettering

NO_BREAK = "\u00a0"  # a space at which no line ends
_SPACE = rf"(?:(?!{NO_BREAK})\s)"
_LINE, _GAP = 1.7, 0.6  # height of a line, and of what is between two paragraphs, in heights of a letter


class Piece(NamedTuple):
    """Text that goes on where the last piece ended.

    Attributes:
        text: any, of any length.
        index: index of the colour of what it names, from 0; None if it names nothing.
        quiet: grey: for what is not drawn, or only said beside the text.
    """

    text: str
    index: int | None = None
    quiet: bool = False

    @property
    def colour(self) -> str:
        """Of the letters."""
        return QUIET if self.quiet else TEXT if self.index is None else colour(self.index)


def draw_paragraphs(width: int, paragraphs: Sequence[Sequence[Piece]], unit: int) -> Image.Image:
    """A strip of ``width`` pixels with all of the text, however long.

    A paragraph goes from right to left if its first letter is of a script that does.

    Args:
        width: in pixels.
        paragraphs: each of pieces.
        unit: height of the letters.
    """
    letters, margin = Lettering(unit), round(1.1 * unit)
    inner, edge = width - 2 * margin, 0.7 * margin
    placed = [_place(paragraph, inner, letters) for paragraph in paragraphs]
    lines = [max((run.line + 1 for run in runs), default=0) for runs in placed]
    gaps = _GAP * unit * max(sum(map(bool, lines)) - 1, 0)
    strip = Image.new("RGB", (width, round(2 * edge + _LINE * unit * sum(lines) + gaps)), BACKGROUND)
    pen, top = ImageDraw.Draw(strip), edge
    for paragraph, runs, count in zip(paragraphs, placed, lines, strict=True):
        mirrored = _is_right_to_left("".join(piece.text for piece in paragraph))
        for run in runs:
            x = inner - run.x - letters.width(run.text) if mirrored else run.x
            letters.draw(pen, (margin + x, top + _LINE * unit * (run.line + 0.5)), run.text, run.piece.colour)
        top += (_LINE * count + _GAP) * unit if count else 0
    return strip


class _Run(NamedTuple):
    """Letters of one piece on one line."""

    x: float
    line: int
    text: str
    piece: Piece


def _place(paragraph: Sequence[Piece], width: float, letters: Lettering) -> list[_Run]:
    """Breaks a paragraph into lines: between words, or anywhere in a word that is longer than a line."""
    runs: list[_Run] = []
    x, line, space = 0.0, 0, letters.width(" ")
    for word in _words(paragraph):
        whole = sum(letters.width(text) for text, _ in word)
        x += space if x else 0
        if x and x + whole > width >= whole:
            x, line = 0.0, line + 1
        for text, piece in word:
            while text:
                end = letters.fitting(text, width - x)
                taken = letters.width(text[:end])
                if x and x + taken > width:  # not one letter more
                    x, line = 0.0, line + 1
                    continue
                runs.append(_Run(x, line, text[:end], piece))
                x, text = x + taken, text[end:]
    return runs


def _words(paragraph: Sequence[Piece]) -> list[list[tuple[str, Piece]]]:
    """What stands between spaces at which a line may end: its text, piece by piece."""
    words: list[list[tuple[str, Piece]]] = []
    glued = False  # to the word before
    for piece in paragraph:
        for part in re.findall(rf"{_SPACE}+|(?:(?!{_SPACE}).)+", piece.text, re.DOTALL):
            if re.match(_SPACE, part):
                glued = False
                continue
            if not glued:
                words.append([])
            words[-1].append((part.replace(NO_BREAK, " "), piece))
            glued = True
    return words


def _is_right_to_left(text: str) -> bool:
    strong = (unicodedata.bidirectional(character) for character in text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"
