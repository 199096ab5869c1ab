"""Paragraphs in which some words stand in the colour of a target, behind its number."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from grounding_jax.drawing.legend import BACKGROUND, QUIET, TEXT, colour, draw_badge
from grounding_jax.drawing.lettering import Lettering

# In heights of a letter: how high a line is, how wide a number with the gap behind it, and where its middle is.
_LINE, _BADGE, _CENTRE = 1.9, 1.9, 0.86


class Piece(NamedTuple):
    """Text that goes on where the last piece ended.

    Attributes:
        text: any, of any length.
        index: index of the target that it names, from 0; None if it names none.
        quiet: grey, and the number in a ring: for what is not drawn, or only said beside the text.
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
    strip = Image.new("RGB", (width, round(2 * edge + _LINE * unit * sum(lines))), BACKGROUND)
    pen = ImageDraw.Draw(strip)
    for k, (paragraph, runs) in enumerate(zip(paragraphs, placed, strict=True)):
        mirrored = _is_right_to_left("".join(piece.text for piece in paragraph))
        for run in runs:
            x, y = run.x, edge + _LINE * unit * (sum(lines[:k]) + run.line + 0.5)
            if run.numbered:
                centre = x + _CENTRE * unit
                centre = inner - centre if mirrored else centre
                draw_badge(strip, (margin + centre, y), run.piece.index, unit, hollow=run.piece.quiet)
                x += _BADGE * unit
            x = inner - x - letters.width(run.text) if mirrored else x
            letters.draw(pen, (margin + x, y), run.text, run.piece.colour)
    return strip


class _Run(NamedTuple):
    """Letters of one piece on one line, the number before them if they begin a piece that has one."""

    x: float
    line: int
    text: str
    piece: Piece
    numbered: bool


def _place(paragraph: Sequence[Piece], width: float, letters: Lettering) -> list[_Run]:
    """Breaks a paragraph into lines: between words, or anywhere in a word that is longer than a line."""
    runs: list[_Run] = []
    x, line, space = 0.0, 0, letters.width(" ")
    for word in _words(paragraph):
        widths = [letters.width(text) + _BADGE * letters.size * numbered for text, _, numbered in word]
        x += space if x else 0
        if x and x + sum(widths) > width >= sum(widths):
            x, line = 0.0, line + 1
        for text, piece, numbered in word:
            while text:
                badge = _BADGE * letters.size * numbered
                end = letters.fitting(text, width - x - badge)
                taken = badge + letters.width(text[:end])
                if x and x + taken > width:  # not one letter more
                    x, line = 0.0, line + 1
                    continue
                runs.append(_Run(x, line, text[:end], piece, numbered))
                x, text, numbered = x + taken, text[end:], False
    return runs


def _words(paragraph: Sequence[Piece]) -> list[list[tuple[str, Piece, bool]]]:
    """What stands between spaces: its text, piece by piece, and whether a number goes before it."""
    words: list[list[tuple[str, Piece, bool]]] = []
    glued = False  # to the word before
    for piece in paragraph:
        numbered = piece.index is not None
        for part in re.findall(r"\s+|\S+", piece.text):
            if part.isspace():
                glued = False
                continue
            if not glued:
                words.append([])
            words[-1].append((part, piece, numbered))
            glued, numbered = True, False
    return words


def _is_right_to_left(text: str) -> bool:
    strong = (unicodedata.bidirectional(character) for character in text)
    return next((kind for kind in strong if kind in ("L", "R", "AL")), "L") != "L"
