"""Published numbers, and a table that has them beside ours.

Only numbers that stand in sections (i) and (j) of docs/spec/gsva.md, and that of LISA on narratives in (j) of
docs/spec/gella.md: where those have none, the table is blank (m).
"""

from __future__ import annotations

from grounding_jax.evaluation.published import Report, comparison_table, published

PROTOCOL = "official"  # of every published number but that of LISA in the paper of GELLA, which does not say

_VAL, _TEST_A, _TEST_B = (f"grefcoco|unc|{split}" for split in ("val", "testA", "testB"))
_REFZOM, _REASON, _ADE, _PNG = "refzom|final|test", "ReasonSeg|val", "ade20k|validation", "png|val2017"
_FOUR, _THREE, _PAIR, _ZOM = "gIoU cIoU N_acc T_acc", "gIoU cIoU N_acc", "gIoU cIoU", "oIoU mIoU Acc"

PUBLISHED = (
    # The released checkpoints (spec gsva j).
    published("gsva-7b-pt", _VAL, _FOUR, 63.47, 61.65, 56.98, 99.54),
    published("gsva-7b-pt", _TEST_A, _FOUR, 69.99, 69.17, 63.39, 98.46),
    published("gsva-7b-pt", _TEST_B, _FOUR, 61.34, 60.26, 58.68, 98.95),
    published("gsva-7b-ft-gres", _VAL, _FOUR, 66.43, 63.19, 62.56, 99.62),
    published("gsva-7b-ft-gres", _TEST_A, _FOUR, 71.06, 69.87, 65.72, 98.69),
    published("gsva-7b-ft-gres", _TEST_B, _FOUR, 62.20, 60.35, 60.72, 99.10),
    # The paper's supplementary (spec gsva i).
    published("GSVA, SAM-H", _VAL, _THREE, 63.32, 61.70, 56.45),
    published("GSVA, SAM-L", _VAL, _THREE, 61.67, 60.46, 56.04),
    published("GSVA, SAM-B", _VAL, _THREE, 59.20, 56.36, 58.57),
    published("GSVA-7B, individual tokens", _VAL, _THREE, 16.13, 23.11, 0),
    published("GSVA, What", _VAL, _THREE, 63.32, 61.70, 56.44),
    published("GSVA, Where", _VAL, _THREE, 63.43, 61.57, 56.98, asked="where"),
    published("GSVA, Show", _VAL, _THREE, 63.05, 61.35, 56.48, asked="show"),
    published("GSVA, Outline", _VAL, _THREE, 63.16, 61.51, 56.27, asked="outline"),
    published("LISA-7B ft", _REASON, _PAIR, 50.5, 53.2),
    published("GSVA-7B ft", _REASON, _PAIR, 50.5, 56.4),
    published("LISA", _REFZOM, _ZOM, 60.14, 61.46, 72.58),
    published("LISA ft", _REFZOM, _ZOM, 66.41, 65.39, 93.39),
    published("GSVA", _REFZOM, _ZOM, 67.12, 67.98, 82.66),
    published("GSVA ft", _REFZOM, _ZOM, 68.29, 68.13, 94.59),
    published("LISA", _ADE, "mIoU", 60.11),
    published("GSVA", _ADE, "mIoU", 60.56),
    published("LISA, one run a phrase", _PNG, "AR", 43.6),
)


def markdown_table(report: Report) -> str:
    """Our metrics, and beside them what was published on that dataset, asked in the same way.

    Args:
        report: the report that `evaluate` returns.

    Returns:
        A heading and a table in Markdown, see `comparison_table`.
    """
    asked = (report["dataset"], report.get("question", "what"))
    is_scenes = any(name.endswith("]") for name in report)  # only our scenes tell the kinds of their expressions
    rows = [row for row in PUBLISHED if (row.dataset, row.asked or "what") == asked and not is_scenes]
    form = f', asked "{report["question"]}"' if "question" in report else ""
    title = f"{report['dataset']}: {report['num_images']} pictures, {report['num_targets']} targets{form}"
    ours = f"ours ({report['protocol']}{', blind' if report['blind'] else ''})"
    rows = [row._replace(model=f"{row.model}{'' if row.dataset == _PNG else f' ({PROTOCOL})'}") for row in rows]
    return comparison_table(title, ours, report, rows)
