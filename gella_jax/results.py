"""Answers as files and as lines to read: pictures, a page, json, and what the terminal shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from etils import epath
from rich.text import Text

from gella_jax.page import make_page
from grounding_jax.data.sources import panoptic as coco
from grounding_jax.drawing.legend import colour
from grounding_jax.drawing.overlay import draw_captioned, draw_overlay, draw_targets, write_png
from grounding_jax.drawing.paragraph import Piece
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
_ABSENT = "not in the picture"
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
    targets, paragraphs = noun_targets(grounding), caption_pieces(grounding)
    painted = draw_targets(image, targets)
    write_png(png, draw_captioned(painted, paragraphs))
    own = ["the model wrote the caption itself"] if grounding.described else []
    notes = [*own, *left_out_lines(grounding.left_out), f"answer: {grounding.text}"]
    title = epath.Path(picture).name
    write_text(page, make_page(title, image, painted, targets, paragraphs, _meanings(grounding), notes))
    write_json(record, grounding_record(picture, grounding))


def save_reference(folder: epath.PathLike, image: np.ndarray, reference: Reference, entities: Entities) -> None:
    """Writes overlay.png and masks.json, with one record, into a folder that exists.

    Args:
        folder: folder for the results.
        image: uint8 ``[H, W, 3]``.
        reference: the reference in this picture.
        entities: the masks that were put in.
    """
    overlay, masks = (epath.Path(folder) / name for name in REFERENCE_FILES)
    write_png(overlay, draw_overlay(image, [Target(reference.expression, reference.mask, reference.score)]))
    record = {
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
    masks = [
        {
            "id": entities.ids[k],
            "name": entities.names[k],
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


def caption_pieces(grounding: Grounding) -> list[list[Piece]]:
    """The caption with its nouns, and in a second paragraph, if there are any, the nouns that it does not have."""
    caption, end, pieces = grounding.caption, 0, []
    placed = [k for k, noun in enumerate(grounding.nouns) if noun.span]
    for k in sorted(placed, key=lambda k: grounding.nouns[k].span):
        noun = grounding.nouns[k]
        start, stop = noun.span
        pieces += [Piece(caption[end:start]), Piece(caption[start:stop], k, not noun.mask.any())]
        end = stop
    paragraphs = [[*pieces, Piece(caption[end:])]]
    missing = [k for k in range(len(grounding.nouns)) if k not in placed]
    if missing:
        listed = [[Piece("  "), Piece(grounding.nouns[k].text, k, not grounding.nouns[k].mask.any())] for k in missing]
        paragraphs.append([Piece("not in the caption:", quiet=True), *(piece for pair in listed for piece in pair)])
    return paragraphs


def describe_grounding(grounding: Grounding) -> list[Text]:
    """One line a noun, in the colours of the picture, and what could not be placed or was left out."""
    lines = _table(noun_targets(grounding), _meanings(grounding))
    if not grounding.nouns:
        lines.append(Text("no nouns", "dim"))
    missing = [noun.text for noun in grounding.nouns if noun.span is None]
    if missing:
        lines.append(Text(f"{len(missing)} of {len(lines)} nouns not in the caption: {', '.join(missing)}", "dim"))
    return lines + [Text(line, "dim") for line in left_out_lines(grounding.left_out)]


def left_out_lines(left_out: LeftOut) -> list[str]:
    """What is said of masks that can't be meant; nothing where there are none."""
    return [f"masks left out: {len(places)}, {_REASONS[reason]}" for reason, places in left_out.items() if places]


def noun_targets(grounding: Grounding) -> list[Target]:
    """Every noun as it is drawn."""
    return [Target(noun.text, noun.mask, noun.score) for noun in grounding.nouns]


def _meanings(grounding: Grounding) -> list[str]:
    return [_ABSENT if noun.absent else mask_names(grounding.entities, noun.masks) for noun in grounding.nouns]


def mask_names(entities: Entities, places: Sequence[int], most: int = 4) -> str:
    """Numbers and names of masks, as in "12 dog, 13 dog"."""
    pairs = [(str(entities.ids[place]), entities.names[place]) for place in places]
    named = [number if name == number else f"{number} {name}" for number, name in pairs[:most]]
    more = [f"{len(pairs) - most} more"] if len(pairs) > most else []
    return ", ".join([*named, *more]) or "no mask"


def segment_targets(panoptic: PanopticAnswer) -> list[Target]:
    """Every segment as it is drawn."""
    return [Target(s.category.name, panoptic.ids == s.id, s.score) for s in panoptic.segments]


def describe_panoptic(panoptic: PanopticAnswer) -> list[Text]:
    """One line a segment, in the colours of the picture, and how much of it is in none."""
    targets = segment_targets(panoptic)
    kinds = ["thing" if segment.category.isthing else "stuff" for segment in panoptic.segments]
    void = 100 * (panoptic.ids == 0).mean()
    lines = [f"{void:.1f}% of the picture is in no segment", *left_out_lines(panoptic.left_out)]
    return [*_table(targets, kinds), *(Text(line, "dim") for line in lines)]


def describe_reference(reference: Reference, entities: Entities) -> list[Text]:
    """A line with the expression, its score and the mask that it means; and what was left out."""
    places = () if reference.place is None else (reference.place,)
    target = Target(reference.expression, reference.mask, reference.score)
    lines = _table([target], [mask_names(entities, places)])
    return lines + [Text(line, "dim") for line in left_out_lines(reference.left_out)]


def describe_nouns(answer: Nouns) -> list[Text]:
    """One line a noun: where the caption has it."""
    width = min(max(map(len, answer.nouns), default=0), _WIDEST)
    places = ["not in the caption" if span is None else f"characters {span[0]} to {span[1]}" for span in answer.spans]
    lines = [
        Text(f"{k + 1:4} ", colour(k)) + Text(f"{noun:{width}}   {place}")
        for k, (noun, place) in enumerate(zip(answer.nouns, places, strict=True))
    ]
    return lines or [Text("no nouns", "dim")]


def _table(targets: Sequence[Target], remarks: Sequence[str]) -> list[Text]:
    """One line a target: number, name, score, a remark, share of the picture."""
    widths = [min(max(map(len, texts), default=0), _WIDEST) for texts in ([t.expression for t in targets], remarks)]
    lines = []
    for k, (target, remark) in enumerate(zip(targets, remarks, strict=True)):
        number = Text(f"{k + 1:4} ", colour(k) if target.mask.any() else "dim")
        share = f"{100 * target.mask.mean():.1f}% of the picture"
        lines.append(
            number + Text(f"{target.expression:{widths[0]}}   {target.score:.2f}   {remark:{widths[1]}}   {share}")
        )
    return lines


def _rounded(score: float) -> float:
    return round(float(score), 6)
