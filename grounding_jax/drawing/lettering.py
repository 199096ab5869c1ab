"""Text on pictures in any script: Pillow's own font for plain English, the system's fonts for the rest."""

from __future__ import annotations

import functools
import unicodedata

from PIL import ImageDraw, ImageFont

# Fonts of wide coverage, by the file names under which Linux, macOS and Windows have them; Pillow finds them.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "segoeui.ttf",
    "seguisym.ttf",
    "msyh.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
)
_BUNDLED = ""  # stands for Pillow's own font, which has ASCII and little more
_NO_CHARACTER = "\U0010ffff"  # every font draws its sign for "not in this font"


class Lettering:
    """Text of one size in pixels, as fonts count it."""

    def __init__(self, size: int):
        self.size = size
        box = _font(_BUNDLED, size).getbbox("x", anchor="ls")
        self._half_x = -box[1] / 2

    def width(self, text: str) -> float:
        """How many pixels a line takes."""
        return sum(font.getlength(run) for run, font in self._runs(text))

    def draw(self, draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, colour: str) -> None:
        """Draws one line; ``position`` is (x of its left end, y of the middle of its small letters)."""
        x, y = position
        for run, font in self._runs(text):
            draw.text((x, y + self._half_x), run, fill=colour, font=font, anchor="ls")
            x += font.getlength(run)

    def wrap(self, text: str, width: float) -> list[str]:
        """Breaks a text into lines of at most ``width`` pixels, between words where it can."""
        lines, rest = [], " ".join(text.split())
        while rest:
            if self.width(rest) <= width:
                return [*lines, rest]
            end = self.fitting(rest, width)
            space = rest.rfind(" ", 0, end + 1)
            end = space if space > 0 else end
            lines.append(rest[:end].rstrip())
            rest = rest[end:].lstrip()
        return lines

    def fitting(self, text: str, width: float) -> int:
        """How many characters fit, at least one."""
        low, high = 1, len(text)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle]) <= width else (low, middle - 1)
        return low

    def _runs(self, text: str) -> list[tuple[str, ImageFont.FreeTypeFont]]:
        return [(run, _font(name, self.size)) for run, name in _runs(text)]


def undrawable(text: str) -> str:
    """The characters of a text, each once, that show as an empty box for want of a font."""
    return "".join(dict.fromkeys(c for piece in map(_drawable, text) for c in piece if _font_of(c) is None))


@functools.lru_cache(maxsize=1024)
def _runs(text: str) -> list[tuple[str, str]]:
    """A line as pieces, each with the name of a font that can draw it.

    It is one piece where one font has everything: scripts that join their letters need that.
    """
    text = "".join(map(_drawable, text))
    for name in _fonts(text):
        if all(_has(name, character) for character in text):
            return [(text, name)]
    runs: list[tuple[str, str]] = []
    for character in text:
        name = _font_of(character) or _BUNDLED
        if runs and runs[-1][1] == name:
            runs[-1] = (runs[-1][0] + character, name)
        else:
            runs.append((character, name))
    return runs


def _drawable(character: str) -> str:
    """What to draw for a character that no font has: for an emoji its name, for an accented letter the letter."""
    category = unicodedata.category(character)
    if category in ("Cc", "Cf"):  # line breaks, joiners
        return ""
    if _font_of(character) is not None:
        return character
    if category in ("Mn", "Me"):  # accents, variation selectors
        return ""
    if category in ("So", "Sk"):
        return f":{unicodedata.name(character, 'sign').lower()}:"
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain.isascii() and plain else character


@functools.lru_cache(maxsize=4096)
def _font_of(character: str) -> str | None:
    """The name of the first font that has a character."""
    return next((name for name in _fonts(character) if _has(name, character)), None)


@functools.lru_cache(maxsize=4096)
def _has(name: str, character: str) -> bool:
    font = _font(name, 20)
    return _shape(font, character) != _shape(font, _NO_CHARACTER)


def _shape(font: ImageFont.FreeTypeFont, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    return mask.size, bytes(mask)


def _fonts(text: str) -> tuple[str, ...]:
    """Names of the fonts to try; the system is only searched for more than ASCII."""
    return (_BUNDLED,) if text.isascii() else (_BUNDLED, *_system_fonts())


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    found = []
    for name in _SYSTEM_FONTS:
        try:
            _font(name, 20)
        except OSError:
            continue  # this system has no such font
        found.append(name)
    return tuple(found)


@functools.lru_cache(maxsize=64)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if name == _BUNDLED else ImageFont.truetype(name, size)
