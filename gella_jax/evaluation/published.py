"""Published numbers, and a table that has them beside ours.

Only numbers that stand in sections A4, (i) and (j) of docs/spec/gella.md: where those have none, the table is blank.
"""

from __future__ import annotations

from grounding_jax.data.entity_masks import TRUE_MASKS
from grounding_jax.evaluation.published import Report, comparison_table, published

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

PUBLISHED = (
    *(
        published(model, f"{dataset}|{split}", "cIoU", percent)
        for model, percents in _TABLE_2.items()
        for (dataset, split), percent in zip(
            [(dataset, split) for dataset, splits in _REFER.items() for split in splits], percents, strict=True
        )
        if percent is not None
    ),
    # Table 3, and of Table 9 the words.
    published("GELLA-7B", _PNG, f"{_RECALLS} AR_text", 69.8, 66.2, 72.3, 69.9, 58.4, 96.1),
    published("GELLA-13B", _PNG, _RECALLS, 71.3, 67.8, 73.1, 71.0, 59.5),
    published("PPO-TD", _PNG, _RECALLS, 66.1, 64.0, 70.7, 68.1, 58.3),
    published("PiGLET", _PNG, _RECALLS, 65.9, 64.0, 68.6, 67.2, 54.5),
    published("NICE", _PNG, _RECALLS, 62.3, 60.2, 65.3, 63.1, 55.2),
    published("PPMN", _PNG, _RECALLS, 59.4, 57.2, 62.5, 60.0, 50.4),
    published("PNG baseline", _PNG, _RECALLS, 55.4, 56.2, 54.3, 56.2, 48.4),
    published("MCN", _PNG, "AR_things", 48.2),
    # Tables 4, 5 and 8b, at 12 and 50 epochs.
    published("GELLA-7B, 12 epochs", _PANOPTIC, "PQ SQ RQ", 53.1, 83.3, 63.8),
    published("GELLA-7B, 50 epochs", _PANOPTIC, "SQ", 83.4),
    published("GELLA-13B, 12 epochs", _PANOPTIC, "SQ", 83.2),
    published("GELLA-13B, 50 epochs", _PANOPTIC, "SQ", 83.3),
    published("Mask2Former, 12 epochs", _PANOPTIC, "SQ", 82.5),
    published("Mask2Former, 50 epochs", _PANOPTIC, "SQ", 83.1),
    published("GELLA-7B, true masks", _PANOPTIC, "PQ SQ", 79.6, 97.8, asked=TRUE_MASKS),
    # Table 6a: what comes out of the colormap.
    published("MobileNetV2", _ENTITY, "AP", 95.2, asked=TRUE_MASKS),
    published("Swin-T", _ENTITY, "AP", 95.8, asked=TRUE_MASKS),
    published("Swin-L", _ENTITY, "AP", 96.3, asked=TRUE_MASKS),
)


def markdown_table(report: Report) -> str:
    """Our metrics, and beside them what was published on that dataset with masks from such a source.

    Args:
        report: the report that `evaluate` returns.

    Returns:
        A heading and a table in Markdown, see `comparison_table`. A line below says what makes the numbers ours: whose
        the masks are, and that AR_text is defined by us.
    """
    asked = TRUE_MASKS if report["masks"] == TRUE_MASKS else ""
    rows = [row for row in PUBLISHED if row.dataset == report["dataset"] and row.asked in ("", asked)]
    title = f"{report['dataset']}: {report['num_images']} pictures, {report['num_targets']} targets"
    table = comparison_table(title, f"ours ({report['protocol']})", report, rows)
    notes = [
        f"Masks: {report['masks']}; answered with those that were {report['output_masks']}. The other numbers are from "
        "the paper."
    ]
    if "AR_text" in report:
        notes.append("AR_text, which the paper does not define, is ours (docs/spec/gella.md e).")
    return f"{table}\n{' '.join(notes)}\n"
