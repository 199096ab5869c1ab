"""A page about one picture and a text: each noun of the text shows what it means when it is pointed at.

It is one HTML file that asks for nothing from outside, so that it can be sent by mail or kept beside a report.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from grounding_jax.data.sources.narratives import Span
from grounding_jax.drawing.html import BASE_STYLE, embedded
from grounding_jax.drawing.legend import colour
from grounding_jax.drawing.overlay import draw_spotlight
from grounding_jax.drawing.paragraph import Piece

_SIDE = 1280  # of the embedded pictures


class Row(NamedTuple):
    """What is said of a noun.

    Attributes:
        noun: the noun.
        span: its place in the caption; None where that does not have it.
        mask: bool ``[H, W]``, all that it means together.
        score: that of the most probable mask.
        masks: numbers on the picture of the masks that it means, those of one name together, and the name.
        remark: why it has none.
    """

    noun: str
    span: Span | None
    mask: np.ndarray
    score: float
    masks: tuple[tuple[tuple[int, ...], str], ...]
    remark: str


def make_page(
    title: str,
    image: np.ndarray,
    painted: Image.Image,
    caption: Sequence[Piece],
    rows: Sequence[Row],
    notes: Sequence[str],
) -> str:
    """Makes the page.

    Args:
        title: name of the picture.
        image: uint8 ``[H, W, 3]``.
        painted: the same with its masks, see `draw_marks`.
        caption: text about it; its indices are those of the rows.
        rows: one for each noun.
        notes: on the whole.

    Returns:
        HTML.
    """
    painted = painted.copy()
    painted.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    plain = Image.fromarray(image).resize(painted.size, Image.Resampling.LANCZOS)
    lights = {k: draw_spotlight(row.mask, painted.size, k) for k, row in enumerate(rows) if row.mask.any()}
    return _PAGE.format(
        style=BASE_STYLE + _STYLE,
        script=_SCRIPT,
        title=html.escape(title),
        painted=embedded(painted, _SIDE),
        plain=embedded(plain, _SIDE),
        lights="".join(_LIGHT.format(k=k, light=embedded(light, _SIDE)) for k, light in lights.items()),
        text="".join(map(_piece, caption)),
        rows="".join(_row(k, row) for k, row in enumerate(rows)),
        notes="".join(f"<p>{html.escape(note)}</p>" for note in notes),
    )


def _piece(piece: Piece) -> str:
    text = html.escape(piece.text)
    if piece.index is None:
        return f'<span class="quiet">{text}</span>' if piece.quiet else text
    return f"<mark {_noun(piece.index, piece.quiet)}>{text}</mark>"


def _row(k: int, row: Row) -> str:
    """The noun in its colour, the numbers and names of its masks, its score, and its share of the picture."""
    masks = "".join(_group(*group) for group in row.masks) or html.escape(row.remark)
    share = f"{100 * row.mask.mean():.1f}%" if row.mask.any() else ""
    beside = " <small>not in the caption</small>" if row.span is None else ""
    return (
        f"<tr {_noun(k, not row.mask.any())}><td><strong>{html.escape(row.noun)}</strong>{beside}</td><td>{masks}</td>"
        f"<td>{row.score:.2f}</td><td>{share}</td></tr>"
    )


def _group(numbers: Sequence[int], name: str) -> str:
    """Masks of one name."""
    badges = "".join(f"<i>{number}</i>" for number in numbers)
    return f"<span>{badges}{html.escape(name)}</span> "


def _noun(k: int, quiet: bool) -> str:
    """The attributes of what stands for a noun; one that is on the picture answers to the mouse and the keyboard."""
    return 'class="quiet"' if quiet else f'data-noun="{k}" style="--own: {colour(k)}" tabindex="0" role="button"'


_STYLE = """
body { max-width: 1500px; padding-top: 28px; }
h1 { margin: 0 0 16px; color: var(--quiet); font-size: 18px; font-weight: 400; }
main { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 32px; align-items: start; }
figure { position: sticky; top: 20px; margin: 0; border-radius: 12px; overflow: hidden; background: var(--card); }
figure img { display: block; width: 100%; max-height: 88vh; object-fit: contain; }
figure .plain, figure .light { position: absolute; inset: 0; height: 100%; }
figure .plain { visibility: hidden; } figure.alone .plain { visibility: visible; }
[hidden] { display: none !important; }
.text { margin: 0 0 18px; font-size: 20px; line-height: 1.75; overflow-wrap: anywhere; }
mark { margin: 0 -3px; padding: 1px 3px; border-radius: 6px; background: none; color: var(--own);
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.quiet, mark.quiet, small { color: var(--quiet); }
td strong { color: var(--own, var(--quiet)); font-weight: 600; } td span { margin-inline-end: 10px; }
td i { display: inline-block; min-width: 1.7em; margin-inline-end: 4px; padding: 0 .4em; border-radius: 1em;
  background: var(--own); color: var(--back); font: 600 13px/1.7 system-ui, sans-serif; text-align: center; }
[data-noun] { cursor: pointer; outline: none; } [data-noun]:focus-visible { outline: 2px solid var(--own); }
.on { background: var(--line); }
table { width: 100%; border-collapse: collapse; } td, th { padding: 6px 8px; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-size: 13px; font-weight: 400; text-align: left; } td { overflow-wrap: anywhere; }
td:first-child, th:first-child { padding-left: 4px; }
td { vertical-align: top; } td:nth-child(n+3), th:nth-child(n+3) { width: 72px; text-align: right;
  font-variant-numeric: tabular-nums; }
footer { margin-top: 16px; color: var(--quiet); font-size: 14px; } footer p { margin: 4px 0; }
@media (max-width: 900px) { main { grid-template-columns: minmax(0, 1fr); } figure img { max-height: 60vh; } }
"""

# One noun is shown while it is pointed at; a click keeps it.
_SCRIPT = """
const figure = document.querySelector("figure"), nouns = document.querySelectorAll("[data-noun]");
let kept = null;
function show(noun) {
  figure.classList.toggle("alone", noun !== null);
  for (const light of figure.querySelectorAll(".light")) light.hidden = light.dataset.light !== noun;
  for (const element of nouns) element.classList.toggle("on", element.dataset.noun === noun);
}
for (const element of nouns) {
  const noun = element.dataset.noun;
  const keep = () => show(kept = kept === noun ? null : noun);
  for (const event of ["mouseenter", "focus"]) element.addEventListener(event, () => show(noun));
  for (const event of ["mouseleave", "blur"]) element.addEventListener(event, () => show(kept));
  element.addEventListener("click", keep);
  element.addEventListener("keydown", event => { if (event.key === "Enter") keep(); });
}
document.addEventListener("keydown", event => { if (event.key === "Escape") show(kept = null); });
"""

_LIGHT = '<img class="light" data-light="{k}" hidden alt="" src="{light}">'

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><h1>{title}</h1><main>
<figure><img class="painted" alt="the picture with its masks" src="{painted}">
<img class="plain" alt="the picture" src="{plain}">{lights}</figure>
<section><p class="text" dir="auto">{text}</p>
<table><tr><th>noun</th><th>masks</th><th>score</th><th>share</th></tr>{rows}</table>
<footer>{notes}</footer></section>
</main><script>{script}</script></body></html>
"""
