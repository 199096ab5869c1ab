"""A page of pictures on which a model did best and worst, and some at random: true masks beside predicted ones.

It is one HTML file that asks for nothing from outside, so that it can be sent by mail or kept beside a report.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from grounding_jax.drawing.html import BASE_STYLE, embedded
from grounding_jax.evaluation.published import Report, main_metrics

SHOWN, SEED = 12, 0
_SIDE = 720  # of the embedded pictures


def page(report: Report, facts: Sequence[str], scores: Sequence[float], card: Callable[[int], str]) -> str:
    """Makes the page.

    Args:
        report: the report that an evaluation returns.
        facts: lines below the title.
        scores: quality of the model's answer, a number a picture.
        card: HTML about a picture, by its place among the scores; see `make_card`.

    Returns:
        HTML.
    """
    sections = []
    for name, chosen in choose(scores).items():
        cards = "".join(map(card, chosen))
        sections.append(f'<h2 id="{name}">{name} <small>{len(chosen)} of {len(scores)} pictures</small></h2>{cards}')
    numbers = "".join(
        f"<div><b>{'&ndash;' if value is None else f'{100 * value:.1f}'}</b><span>{html.escape(name)}</span></div>"
        for name, value in main_metrics(report).items()
    )
    return _PAGE.format(
        style=BASE_STYLE + _STYLE,
        title=html.escape(str(report["dataset"])),
        facts=html.escape(" · ".join(facts)),
        numbers=numbers,
        sections="".join(sections),
    )


def choose(scores: Sequence[float]) -> dict[str, list[int]]:
    """The pictures of each section: "best", "worst", each picture in one of them at most, and "random".

    Equal scores are in the order of the dataset; the random ones are the same at each call.
    """
    order = sorted(range(len(scores)), key=lambda k: -scores[k])
    half = (len(order) + 1) // 2
    drawn = np.random.default_rng(SEED).permutation(len(scores))[:SHOWN]
    return {"best": order[:half][:SHOWN], "worst": order[half:][::-1][:SHOWN], "random": sorted(drawn.tolist())}


def make_card(name: str, score: float, meaning: str, true: Image.Image, predicted: Image.Image, details: str) -> str:
    """HTML about one picture.

    Args:
        name: its heading.
        score: shown beside it.
        meaning: text that a pointer on the score shows.
        true, predicted: the picture with both kinds of masks.
        details: HTML below the pictures.
    """
    return _CARD.format(
        name=html.escape(name),
        score=f"{score:.2f}",
        meaning=html.escape(meaning),
        true=embedded(true, _SIDE),
        predicted=embedded(predicted, _SIDE),
        details=details,
    )


_STYLE = """
body { max-width: 1240px; }
h1 { margin: 0; font-size: 28px; } header p { margin: 4px 0 20px; color: var(--quiet); }
h2 { margin: 56px 0 16px; font-size: 22px; text-transform: capitalize; }
h2 small { font-size: 14px; font-weight: 400; color: var(--quiet); text-transform: none; }
nav a { margin-right: 18px; color: #7fb2ff; text-decoration: none; }
.numbers { display: flex; flex-wrap: wrap; gap: 10px; margin-bottom: 20px; }
.numbers div { min-width: 92px; padding: 8px 14px; border-radius: 10px; background: var(--card); }
.numbers b { display: block; font-size: 20px; } .numbers span { color: var(--quiet); font-size: 13px; }
article { margin-bottom: 22px; border: 1px solid var(--line); border-radius: 14px; background: var(--card);
  overflow: hidden; }
article > p { display: flex; justify-content: space-between; margin: 0; padding: 10px 18px; color: var(--quiet); }
article > p b { color: var(--text); }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 2px; background: var(--line); }
figure { margin: 0; background: var(--back); text-align: center; }
figure img { display: block; margin: auto; max-width: 100%; max-height: 460px; }
figcaption { padding: 5px; color: var(--quiet); font-size: 13px; }
blockquote { margin: 12px 18px 0; padding-left: 12px; border-left: 3px solid var(--line); color: var(--quiet); }
table { width: calc(100% - 36px); margin: 10px 18px 14px; border-collapse: collapse; }
th { color: var(--quiet); font-size: 13px; font-weight: 400; text-align: left; }
td, th { padding: 5px 8px; border-bottom: 1px solid var(--line); } tr:last-child td { border-bottom: 0; }
td:first-child, th:first-child { width: 42px; padding-left: 0; }
td:nth-child(n+3), th:nth-child(n+3) { width: 88px; text-align: right; font-variant-numeric: tabular-nums; }
td i { display: inline-block; min-width: 24px; padding: 0 6px; border-radius: 12px; color: var(--back); font-size: 13px;
  font-style: normal; font-weight: 600; text-align: center; }
td em { margin-left: 8px; padding: 1px 8px; border-radius: 9px; background: var(--line); color: var(--quiet);
  font-size: 12px; font-style: normal; }
.right { color: #6fdc5a; } .wrong { color: #ff5a6e; }
td.iou { width: 150px; background: linear-gradient(90deg, #35c2ff44 calc(100% * var(--part)), transparent 0); }
@media (max-width: 720px) { .pair { grid-template-columns: 1fr; } }
"""

_CARD = """
<article><p><span>{name}</span>
<span title="{meaning}">mean IoU <b>{score}</b></span></p>
<div class="pair"><figure><figcaption>true</figcaption><img loading="lazy" alt="true masks" src="{true}"></figure>
<figure><figcaption>predicted</figcaption><img loading="lazy" alt="predicted masks" src="{predicted}"></figure></div>
{details}</article>
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><header><h1>{title}</h1><p>{facts}</p><div class="numbers">{numbers}</div>
<nav><a href="#best">best</a><a href="#worst">worst</a><a href="#random">random</a></nav></header>
{sections}
</body></html>
"""
