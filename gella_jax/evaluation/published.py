"""Published numbers, and tables that have them beside ours.

Only numbers that stand in sections (i) and (j) of docs/spec/gella.md: where those have none, the table is
blank. A row says of which masks it is: numbers of true and of predicted masks never stand beside each other.
"""

from __future__ import annotations

from collections.abc import Sequence

from gella_jax.evaluation.masks import whose_masks
from grounding_jax.data.entity_masks import TRUE_MASKS
from grounding_jax.evaluation.published import Published, Report, comparison_table, main_metrics, percent, published

_PREDICTED = "predicted"  # by a segmenter, or by the system itself
_AUTO_ENCODED = f"{TRUE_MASKS}, decoded"  # true masks as a model gives them back

_PNG, _PANOPTIC, _ENTITY = "png|val2017", "panoptic|val2017", "coco_entity|val2017"
_RECALLS = "AR AR_things AR_stuff AR_singulars AR_plurals"
_REFER = {  # Table 2, cIoU
    "refcoco|unc": ("val", "testA", "testB"),
    "refcoco+|unc": ("val", "testA", "testB"),
    "refcocog|umd": ("val", "test"),
}
_TABLE_2 = {
    "GELLA-7B": (76.1, 79.9, 73.1, 66.4, 72.7, 60.2, 69.6, 71.3),
    "GELLA-13B": (76.7, 80.5, 73.6, 67.0, 73.2, 60.6, 70.4, 71.5),
    "LISA-7B": (74.9, 79.1, 72.3, 65.1, 70.8, 58.1, 67.9, 70.6),
    "GRES": (73.8, 76.5, 70.2, 66.0, 71.0, 57.7, 65.0, 66.0),
    "LAVT": (72.7, 75.8, 68.8, 62.1, 68.4, 55.1, 61.2, 62.1),
    "CRIS": (70.5, 73.2, 66.1, 65.3, 68.1, 53.7, 59.9, 60.4),
    "X-Decoder": (None,) * 6 + (64.6, None),
    "SEEM": (None,) * 6 + (65.7, None),
}


def _row(model: str, dataset: str, names: str, *percents: float, asked: str = _PREDICTED) -> Published:
    return published(model, dataset, names, *percents, asked=asked)


SYSTEMS = (
    *(
        _row(model, f"{dataset}|{split}", "cIoU", value)
        for model, percents in _TABLE_2.items()
        for (dataset, split), value in zip(
            [(dataset, split) for dataset, splits in _REFER.items() for split in splits], percents, strict=True
        )
        if value is not None
    ),
    # Table 3; of Table 9 the words, and of Table 12b LISA.
    _row("GELLA-7B", _PNG, f"{_RECALLS} AR_text", 69.8, 66.2, 72.3, 69.9, 58.4, 96.1),
    _row("GELLA-13B", _PNG, _RECALLS, 71.3, 67.8, 73.1, 71.0, 59.5),
    _row("PPO-TD", _PNG, _RECALLS, 66.1, 64.0, 70.7, 68.1, 58.3),
    _row("PiGLET", _PNG, _RECALLS, 65.9, 64.0, 68.6, 67.2, 54.5),
    _row("NICE", _PNG, _RECALLS, 62.3, 60.2, 65.3, 63.1, 55.2),
    _row("PPMN", _PNG, _RECALLS, 59.4, 57.2, 62.5, 60.0, 50.4),
    _row("PNG baseline", _PNG, _RECALLS, 55.4, 56.2, 54.3, 56.2, 48.4),
    _row("MCN", _PNG, "AR_things", 48.2),
    _row("LISA, one run a noun", _PNG, "AR", 43.6),
    # Table 4, of which only SQ is legible.
    _row("GELLA-7B, 12 epochs", _PANOPTIC, "SQ", 83.3),
    _row("GELLA-7B, 50 epochs", _PANOPTIC, "SQ", 83.4),
    _row("GELLA-13B, 12 epochs", _PANOPTIC, "SQ", 83.2),
    _row("GELLA-13B, 50 epochs", _PANOPTIC, "SQ", 83.3),
    _row("Mask2Former, 12 epochs", _PANOPTIC, "SQ", 82.5),
    _row("Mask2Former, 50 epochs", _PANOPTIC, "SQ", 83.1),
)

# Tables 5 to 11, all of GELLA-7B; the paper does not say after how many epochs.
ABLATIONS = (
    _row("5a: CLIP at 224", _PANOPTIC, "PQ", 51.5),
    _row("5a: CLIP at 336", _PANOPTIC, "PQ SQ RQ", 53.1, 83.3, 63.8),
    _row("5b: location-aware colours", _PANOPTIC, "PQ", 52.9),
    _row("5b: random colours", _PANOPTIC, "PQ", 53.1),
    # Colormaps encoded and decoded, without a picture.
    _row("6a: MobileNetV2", _ENTITY, "AP", 95.2, asked=_AUTO_ENCODED),
    _row("6a: Swin-T", _ENTITY, "AP", 95.8, asked=_AUTO_ENCODED),
    _row("6a: Swin-L", _ENTITY, "AP", 96.3, asked=_AUTO_ENCODED),
    _row("6b: trained on masks predicted by a COCO model", _ENTITY, "AP", 95.2, asked=_AUTO_ENCODED),
    _row("6b: trained on masks predicted by an EntitySeg model", _ENTITY, "AP", 94.9, asked=_AUTO_ENCODED),
    _row("6b: trained on COCO's true masks", _ENTITY, "AP", 95.2, asked=_AUTO_ENCODED),
    _row("7: ResoBlend without SA", _PANOPTIC, "PQ RQ", 51.8, 61.3),
    _row("7: ResoBlend without CA", _PANOPTIC, "PQ", 43.1),
    _row("7: ResoBlend without FF", _PANOPTIC, "PQ", 52.8),
    _row("7: ResoBlend without RES", _PANOPTIC, "PQ", 50.9),
    _row("7: ResoBlend without CONV", _PANOPTIC, "PQ", 52.4),
    _row("7: ResoBlend with all", _PANOPTIC, "PQ", 53.1),
    _row("8a: trained on masks predicted by a COCO model", _PANOPTIC, "PQ", 53.0),
    _row("8a: trained on masks predicted by an EntitySeg model", _PANOPTIC, "PQ", 52.9),
    _row("8a: trained on true masks", _PANOPTIC, "PQ", 53.1),
    _row("8b: tested with masks predicted by a COCO model", _PANOPTIC, "PQ", 53.1),
    _row("8b: tested with masks predicted by an EntitySeg model", _PANOPTIC, "PQ", 49.2),
    _row("8b: tested with true masks", _PANOPTIC, "PQ SQ RQ", 79.6, 97.8, 91.4, asked=TRUE_MASKS),
    # Shares of training that describe, name nouns and ground; cells that are not here can't be read.
    _row("9: describe 0, nouns 0, ground 1", _PNG, "AR AR_text", 66.4, 79.4),
    _row("9: describe 0, nouns .2, ground .8", _PNG, "AR AR_text", 69.4, 95.4),
    _row("9: describe .1, nouns .1, ground illegible", _PNG, "AR_singulars AR_text", 69.2, 95.7),
    _row("9: describe .2, nouns .2, ground .6", _PNG, "AR AR_text", 69.8, 96.1),
    _row("10: association by a linear layer", _PNG, "AR", 69.8),
    _row("10: association by linear, ReLU, linear", _PNG, "AR", 69.7),
    _row("11: masks of CondInst", _PNG, "AR", 63.5),
    _row("11: masks of SOLOv2", _PNG, "AR", 63.7),
    _row("11: masks of Mask2Former-T", _PNG, "AR", 64.7),
    _row("11: masks of Mask2Former-L", _PNG, "AR", 69.8),
    _row("11: masks of instances", _PNG, "AR", 62.3),
    _row("11: masks of a panoptic model", _PNG, "AR", 68.9),
    _row("11: masks of entities", _PNG, "AR", 69.8),
    _row("11: masks of an EntitySeg model, zero-shot", _PNG, "AR", 69.2),
)


def markdown_table(report: Report) -> str:
    """Our metrics, and beside them what was published on that dataset with such masks.

    Args:
        report: the report that `evaluate` returns.

    Returns:
        A line that says whose the masks are, a heading and a table in Markdown, see `comparison_table`; the ablations
        of the paper below, a row each. A last line says what makes the numbers ours.
    """
    systems, ablations = (_comparable(report, rows) for rows in (SYSTEMS, ABLATIONS))
    title = f"{report['dataset']}: {report['num_images']} pictures, {report['num_targets']} targets"
    parts = [
        f"{whose_masks(report)}\n",
        comparison_table(title, f"ours ({report['protocol']})", report, systems),
        *([_ablations(report, ablations)] if ablations else []),
        _notes(report),
    ]
    return "\n".join(parts)


def _comparable(report: Report, rows: Sequence[Published]) -> list[Published]:
    """The rows of this dataset that are of such masks."""
    kind = TRUE_MASKS if report["masks"] == TRUE_MASKS else _PREDICTED
    kinds = (kind, f"{kind}, {report['output_masks']}")
    return [row for row in rows if row.dataset == report["dataset"] and row.asked in kinds]


def _ablations(report: Report, rows: Sequence[Published]) -> str:
    """A table with a row for each, and ours on top, of those metrics that the paper has there."""
    ours = main_metrics(report)
    names = [name for name in ours if any(name in row.metrics for row in rows)]
    lines = [("the paper's table: row", *names), ("---", *["---:"] * len(names))]
    for name, metrics in ((f"ours ({report['protocol']})", ours), *((row.model, row.metrics) for row in rows)):
        lines.append((name, *(percent(metrics.get(metric)) for metric in names)))
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _notes(report: Report) -> str:
    notes = [
        f"Answered with the masks that were {report['output_masks']}. The other numbers are from the paper; an empty "
        "cell is one that it does not have, or that can't be read."
    ]
    if "AR_text" in report:
        notes.append("AR_text, which the paper does not define, is ours (docs/spec/gella.md e).")
    return f"{' '.join(notes)}\n"
