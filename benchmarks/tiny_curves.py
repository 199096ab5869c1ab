"""Draws the training curves of the tiny model's runs: `python benchmarks/tiny_curves.py docs/tiny_logs OUT.png`."""

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
}
COLUMNS = 3
WINDOW = 10  # log lines that are averaged


def smooth(values: list[float]) -> list[float]:
    """Means over the last `WINDOW` values."""
    return [sum(part) / len(part) for i in range(len(values)) if (part := values[max(0, i - WINDOW + 1) : i + 1])]


def main(runs: Path, out: Path) -> None:
    """One panel a run that is there, over the steps it took."""
    shown = {name: curves for name, curves in RUNS.items() if (runs / name / "log.jsonl").exists()}
    rows = -(-len(shown) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(4 * COLUMNS, 3.4 * rows), sharey=True, squeeze=False)
    for axis, (name, curves) in zip(axes.flat, shown.items(), strict=False):
        lines = [json.loads(line) for line in (runs / name / "log.jsonl").read_text().splitlines()]
        lines = sorted({line["step"]: line for line in lines}.values(), key=lambda line: line["step"])
        for key, label in curves.items():
            axis.plot([line["step"] for line in lines], smooth([line[key] for line in lines]), label=label)
        axis.set(title=name, xlabel="step of 16 scenes", ylim=(0, 1))
        axis.grid(alpha=0.3)
        axis.legend(loc="center right", fontsize=8)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
