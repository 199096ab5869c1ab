"""Draws the training curves of a tiny model's runs, by what they log and what their validations say.

python benchmarks/tiny_curves.py gsva docs/tiny_logs docs/tiny_curves.png
python benchmarks/tiny_curves.py gella docs/tiny_logs docs/gella_curves.png
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 - the backend has to be chosen before

RUNS = {
    "gsva_tiny_masks_first": {"cell_accuracy": "kind of a cell", "dice": "1 - dice of a mask"},
    "gsva_tiny_eyes_first": {
        "cell_accuracy": "kind of a patch",
        "place_accuracy": "leftmost, topmost ...",
        "size_accuracy": "largest, smallest",
    },
    "gsva_tiny_masks": {"cell_accuracy": "kind of a cell", "dice": "1 - dice of a mask"},
    "gsva_tiny_eyes": {
        "cell_accuracy": "kind of a patch",
        "place_accuracy": "leftmost, topmost ...",
        "size_accuracy": "largest, smallest",
    },
    "gsva_tiny_words": {
        "decision_accuracy": "[SEG] or [REJ]",
        "imitation": "distance to SAM's own prompts",
        "imitation_one": "the same, one object of several",
    },
    "gsva_tiny": {
        "decision_accuracy": "[SEG] or [REJ]",
        "present_dice": "dice of a mask",
        "imitation": "distance to SAM's own prompts",
    },
    "gsva_tiny_fine": {"present_dice": "dice of a mask"},
}
_MASKS = {
    "kind_accuracy": "kind of an entity",
    "relation_accuracy": "the left one, the largest ...",
    "AR": "AR, val",
    "mask_IoU": "IoU of decoded masks, val",
}
RUNS |= {
    "gella_tiny_masks_first": _MASKS,
    "gella_tiny_masks": _MASKS,
    "gella_tiny_words": {
        "answer": "cross entropy of answers",
        "imitation": "distance to the codes",
        "tokens": "tokens, val",
    },
    "gella_tiny": {
        "answer": "cross entropy of answers",
        "association": "L_asso x 8",
        "AR": "AR, val",
        "tokens": "tokens, val",
    },
    "gella_tiny_finder_first": {"kind_accuracy": "kind of an entity", "mask_IoU": "IoU of masks, val"},
    "gella_tiny_finder": {"kind_accuracy": "kind of an entity", "mask_IoU": "IoU of masks, val"},
}
BATCHES = {"gella_tiny_words": 8, "gsva_tiny_fine": 8}  # scenes, 16 in the others
COLUMNS = 3
WINDOW = 10  # log lines that are averaged


def smooth(values: list[float]) -> list[float]:
    """Means over the last `WINDOW` values."""
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i - WINDOW + 1) : i + 1])]


def curve(run: Path, key: str) -> tuple[list[int], list[float], str]:
    """Steps and values of what a run noted under a key, and how to draw them: those of validations as dots."""
    for name, style in (("log.jsonl", "-"), ("validation.jsonl", "o--")):
        file = run / name
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        values = {line["step"]: line[key] for line in lines if key in line}
        if values:
            steps = sorted(values)
            found = [values[step] for step in steps]
            return steps, smooth(found) if style == "-" else found, style
    return [], [], "-"


def main(system: str, runs: Path, out: Path) -> None:
    """One panel a run that is there, over the steps it took."""
    shown = [name for name in RUNS if name.startswith(system) and (runs / name / "log.jsonl").exists()]
    rows = -(-len(shown) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 3.4 * rows), sharey=True, squeeze=False)
    for axis, name in zip(axes.flat, shown, strict=False):
        for key, label in RUNS[name].items():
            steps, values, style = curve(runs / name, key)
            if steps:
                axis.plot(steps, values, style, label=label, markersize=3)
        axis.set(title=name, xlabel=f"step of {BATCHES.get(name, 16)} scenes", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(loc="center right", fontsize=8)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
