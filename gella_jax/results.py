"""Answers as files and as lines to read: pictures, a page, json, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath
from rich.text import Text

from gella_jax.page import Row, make_page
from grounding_jax.data.sources import panoptic as coco
from grounding_jax.drawing.badges import Mark
from grounding_jax.drawing.legend import colour
from grounding_jax.drawing.overlay import draw_captioned, draw_marks, draw_overlay, write_png
from grounding_jax.drawing.paragraph import NO_BREAK, Piece
from grounding_jax.files.id_maps import encode_id_map
from grounding_jax.files.masks import mask_record
from grounding_jax.files.writing import write_bytes, write_json, write_text

if TYPE_CHECKING:
    from gella_jax.answers import Grounding, Nouns, Reference
    from gella_jax.engine import LeftOut
    from gella_jax.panoptic import PanopticAnswer
    from grounding_jax.data.entity_masks import Entities
    from grounding_jax.data.sources.panoptic_classes import Category

GROUNDING_FILES = ("grounding.png", "grounding.html", "grounding.json")
REFERENCE_FILES = ("overlay.png", "masks.json")
PANOPTIC_FILES = ("overlay.png", "panoptic.png", "panoptic.json")
DESCRIPTION_FILE, NOUNS_FILE = "description.json", "nouns.json"
_WIDEST = 60  # characters of a name in a column
_REASONS = {
    "hidden": "nothing is seen of them",
    "surplus": "more than the model takes, the smallest",
    "improbable": "no category is probable enough",
    "covered": "others have too many of their pixels",
}


class Target(NamedTuple):
    """What a `Shown` needs, of a noun, an expression or a segment."""

    expression: str
    mask: np.ndarray
    score: float
    rejected: bool = False


def save_description(folder: epath.PathLike, picture: str, description: str) -> None:
    """Writes description.json into a folder that exists."""
    write_json(epath.Path(folder) / DESCRIPTION_FILE, {"image": picture, "description": description})


def save_nouns(folder: epath.PathLike, picture: str, caption: str, answer: Nouns) -> None:
    """Writes nouns.json into a folder that exists."""
    nouns = [{"text": text, "span": span} for text, span in zip(answer.nouns, answer.spans, strict=True)]
    content = {"image": picture, "caption": caption, "answer": answer.text, "nouns": nouns}
    write_json(epath.Path(folder) / NOUNS_FILE, content)


def save_grounding(folder: epath.PathLike, picture: str, image: np.ndarray, grounding: Grounding) -> None:
    """Writes grounding.png, grounding.html and grounding.json into a folder that exists.

    Args:
        folder: folder for the results.
        picture: its file.
        image: uint8 ``[H, W, 3]``.
        grounding: the grounding of this picture.
    """
    png, page, record = (epath.Path(folder) / name for name in GROUNDING_FILES)
    painted, caption = draw_marks(image, noun_marks(grounding)), caption_pieces(grounding)
    write_png(png, draw_captioned(painted, [caption, noun_list(grounding)]))
    own = ["the model wrote the caption itself"] if grounding.described else []
    notes = [*own, *left_out_lines(grounding.left_out), f"answer: {grounding.text}"]
    title = epath.Path(picture).name
    write_text(page, make_page(title, image, painted, caption, _rows(grounding), notes))
    write_json(record, grounding_record(picture, grounding))


def save_reference(
    folder: epath.PathLike, picture: str, image: np.ndarray, reference: Reference, entities: Entities
) -> None:
    """Writes overlay.png and masks.json, with one record, into a folder that exists.

    Args:
        folder: folder for the results.
        picture: its file.
        image: uint8 ``[H, W, 3]``.
        reference: the reference in this picture.
        entities: the masks that were put in.
    """
    overlay, masks = (epath.Path(folder) / name for name in REFERENCE_FILES)
    write_png(overlay, draw_overlay(image, [Target(reference.expression, reference.mask, reference.score)]))
    record = {
        "image": picture,
        "expression": reference.expression,
        "answer": reference.text,
        "nouns": reference.nouns,
        "mask_id": None if reference.place is None else entities.ids[reference.place],
        "place": reference.place,
        "score": _rounded(reference.score),
        **mask_record(reference.mask),
    }
    write_json(masks, [record])


def save_panoptic(
    folder: epath.PathLike, picture: str, image: np.ndarray, panoptic: PanopticAnswer, categories: Sequence[Category]
) -> None:
    """Writes panoptic.png and panoptic.json, as COCO has them, and overlay.png into a folder that exists.

    `read_masks` reads the first two.

    Args:
        folder: folder for the results.
        picture: the name of the picture's file.
        image: uint8 ``[H, W, 3]``.
        panoptic: the panoptic segmentation of this picture.
        categories: the vocabulary.
    """
    overlay, png, record = (epath.Path(folder) / name for name in PANOPTIC_FILES)
    write_png(overlay, draw_overlay(image, segment_targets(panoptic)))
    write_bytes(png, encode_id_map(panoptic.ids))
    numbers = {segment.id: segment.category.id for segment in panoptic.segments}
    entry, annotation = coco.coco_entries(coco.PanopticMap(1, picture, panoptic.ids, numbers), png.name, categories)
    for info, segment in zip(annotation["segments_info"], panoptic.segments, strict=True):
        info["score"] = _rounded(segment.score)
    write_json(record, coco.coco_content([entry], [annotation], categories))


def grounding_record(picture: str, grounding: Grounding) -> dict[str, Any]:
    """What grounding.json has of a picture with this name."""
    entities = grounding.entities
    reasons = {k: reason for reason, places in grounding.left_out.items() for k in places}
    numbers = mask_numbers(grounding)
    masks = [
        {
            "id": entities.ids[k],
            "name": entities.names[k],
            "number": numbers.get(k),
            **({} if entities.scores is None else {"score": _rounded(entities.scores[k])}),
            **mask_record(entities.masks[k]),
            "left_out": reasons.get(k),
        }
        for k in range(len(entities.ids))
    ]
    nouns = [
        {
            "text": noun.text,
            "span": noun.span,
            "mask_ids": [entities.ids[k] for k in noun.masks],
            "places": noun.masks,
            "absent": noun.absent,
            "score": _rounded(noun.score),
            "scores": [_rounded(score) for score in noun.scores],
        }
        for noun in grounding.nouns
    ]
    return {
        "image": picture,
        "caption": grounding.caption,
        "described": grounding.described,
        "answer": grounding.text,
        "masks": masks,
        "nouns": nouns,
        "left_out": {reason: len(places) for reason, places in grounding.left_out.items()},
    }


def mask_numbers(grounding: Grounding) -> dict[int, int]:
    """The numbers, from 1, that masks carry on the picture, by their places: in the order in which nouns mean them."""
    meant = dict.fromkeys(place for noun in grounding.nouns for place in noun.masks)
    drawn = (place for place in meant if grounding.entities.masks[place].any())
    return {place: number for number, place in enumerate(drawn, 1)}


def noun_marks(grounding: Grounding) -> list[Mark]:
    """The masks that nouns mean as they are drawn, each in the colours of all its nouns."""
    numbers = mask_numbers(grounding)
    return [
        Mark(grounding.entities.masks[place], numbers[place], k)
        for k, noun in enumerate(grounding.nouns)
        for place in noun.masks
        if place in numbers
    ]


def caption_pieces(grounding: Grounding) -> list[Piece]:
    """The caption, its nouns in their colours; grey where nothing is drawn."""
    caption, end, pieces = grounding.caption, 0, []
    placed = [k for k, noun in enumerate(grounding.nouns) if noun.span]
    for k in sorted(placed, key=lambda k: grounding.nouns[k].span):
        noun = grounding.nouns[k]
        start, stop = noun.span
        pieces += [Piece(caption[end:start]), Piece(caption[start:stop], k, not noun.mask.any())]
        end = stop
    return [*pieces, Piece(caption[end:])]


def noun_list(grounding: Grounding) -> list[Piece]:
    """Every noun with the numbers of its masks on the picture, as in "zebras: 1, 2, 3"."""
    pieces = []
    for k, row in enumerate(_rows(grounding)):
        numbers = ", ".join(str(number) for group, _ in row.masks for number in group)
        whole = NO_BREAK.join(row.noun.split())
        pieces += [Piece(" · ", quiet=True)] if k else []
        said = numbers or NO_BREAK.join(row.remark.split())
        pieces.append(Piece(f"{whole}:{NO_BREAK}{said}", k, not row.mask.any()))
        if row.span is None:
            pieces.append(Piece(NO_BREAK.join([" (not", "in", "the", "caption)"]), quiet=True))
    return pieces


def _rows(grounding: Grounding) -> list[Row]:
    """What is to be said of every noun."""
    numbers, rows = mask_numbers(grounding), []
    for noun in grounding.nouns:
        groups: dict[str, list[int]] = {}
        for place in noun.masks:
            if place in numbers:
                groups.setdefault(_name(grounding.entities, place), []).append(numbers[place])
        remark = "" if groups else "not in the picture" if noun.absent else "empty mask" if noun.masks else "no mask"
        masks = tuple((tuple(group), name) for name, group in groups.items())
        rows.append(Row(noun.text, noun.span, noun.mask, noun.score, masks, remark))
    return rows


def _name(entities: Entities, place: int) -> str:
    """What somebody calls a mask; nothing where that is a number."""
    name = entities.names[place]
    return "" if name.isdecimal() else name


def describe_grounding(grounding: Grounding) -> list[Text]:
    """One line a noun, in its colour, with the numbers on the picture; and what could not be placed or was left out."""
    rows = _rows(grounding)
    width = min(max((len(row.noun) for row in rows), default=0), _WIDEST)
    lines = [
        Text("  ")
        + Text(f"{row.noun:{width}}", colour(k) if row.mask.any() else "dim")
        + Text(f"   {row.score:.2f}   {_share(row.mask)}   {_in_words(row)}")
        for k, row in enumerate(rows)
    ]
    if not rows:
        lines.append(Text("no nouns", "dim"))
    missing = [row.noun for row in rows if row.span is None]
    if missing:
        lines.append(Text(f"{len(missing)} of {len(rows)} nouns not in the caption: {', '.join(missing)}", "dim"))
    return lines + [Text(line, "dim") for line in left_out_lines(grounding.left_out)]


def _in_words(row: Row) -> str:
    """The masks of a noun, as in '#1 "dog", #2 #3 "cat"'."""
    groups = []
    for numbers, name in row.masks:
        text = " ".join(f"#{number}" for number in numbers)
        groups.append(f'{text} "{name}"' if name else text)
    return ", ".join(groups) or row.remark


def _share(mask: np.ndarray) -> str:
    """The part of the picture that a mask takes; blank where that is nothing."""
    return f"{100 * mask.mean():5.1f}% of the picture" if mask.any() else " " * 21


def left_out_lines(left_out: LeftOut) -> list[str]:
    """What is said of masks that can't be meant; nothing where there are none."""
    return [f"masks left out: {len(places)}, {_REASONS[reason]}" for reason, places in left_out.items() if places]


def segment_targets(panoptic: PanopticAnswer) -> list[Target]:
    """Every segment as it is drawn."""
    return [Target(s.category.name, panoptic.ids == s.id, s.score) for s in panoptic.segments]


def describe_panoptic(panoptic: PanopticAnswer) -> list[Text]:
    """One line a segment, with its number on the picture and in its colour, and how much of it is in none."""
    targets = segment_targets(panoptic)
    width = min(max((len(target.expression) for target in targets), default=0), _WIDEST)
    lines = [
        Text(f"{f'#{k + 1}':>6} ", colour(k))
        + Text(f"{target.expression:{width}}   {target.score:.2f}   {_share(target.mask)}   ")
        + Text("thing" if segment.category.isthing else "stuff")
        for k, (target, segment) in enumerate(zip(targets, panoptic.segments, strict=True))
    ]
    void = 100 * (panoptic.ids == 0).mean()
    rest = [f"{void:.1f}% of the picture is in no segment", *left_out_lines(panoptic.left_out)]
    return [*lines, *(Text(line, "dim") for line in rest)]


def describe_reference(reference: Reference, entities: Entities) -> list[Text]:
    """A line with the expression, its score and the mask that it means; and what was left out."""
    if reference.place is None:
        meaning = "no mask"
    else:
        name = _name(entities, reference.place)
        meaning = f"mask {reference.place + 1} of {len(entities.ids)}" + (f' "{name}"' if name else "")
    line = Text("  ") + Text(reference.expression, colour(0) if reference.mask.any() else "dim")
    line += Text(f"   {reference.score:.2f}   {_share(reference.mask)}   {meaning}")
    return [line, *(Text(line, "dim") for line in left_out_lines(reference.left_out))]


def describe_nouns(answer: Nouns) -> list[Text]:
    """One line a noun: where the caption has it."""
    width = min(max(map(len, answer.nouns), default=0), _WIDEST)
    places = ["not in the caption" if span is None else f"characters {span[0]} to {span[1]}" for span in answer.spans]
    lines = [
        Text(f"{k + 1:4} ", colour(k)) + Text(f"{noun:{width}}   {place}")
        for k, (noun, place) in enumerate(zip(answer.nouns, places, strict=True))
    ]
    return lines or [Text("no nouns", "dim")]


def _rounded(score: float) -> float:
    return round(float(score), 6)
