"""How good a tiny GSVA is: held-out scenes, three protocols, by kind of expression, and the text alone beside it.

python benchmarks/tiny.py                                  # the shipped model on 500 test scenes
python benchmarks/tiny.py --checkpoint RUN/model --split val --num 200
"""

import dataclasses
import json
from typing import Literal

import numpy as np
import tyro
from etils import epath

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.scenes.write import write_scenes
from grounding_jax.files.pictures import open_picture
from grounding_jax.metrics.outlines import boundary_f_score, has_speck
from grounding_jax.terminal import tracked
from gsva_jax.evaluation.run import evaluate

DATASETS = {"val": "grefcoco|unc|val", "test": "grefcoco|unc|testA"}
TOTALS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.5")
KINDS = ("name", "all", "place", "size")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        checkpoint: a model folder, or the name of a shipped model.
        split: models are chosen on val and reported on test.
        num: scenes.
        seed: of the scenes; training used others.
        protocols: how the model is asked.
        scenes: folder for the scenes.
        json: file for all numbers.
    """

    checkpoint: str = "tiny"
    split: Literal["val", "test"] = "test"
    num: int = 500
    seed: int = 1
    protocols: tuple[Literal["generated", "guided", "official"], ...] = ("generated", "guided", "official")
    scenes: str = "out/scenes"
    json: str | None = None


def main(options: Options) -> None:
    """Prints a Markdown table with one row a protocol, and one with the kinds of expressions."""
    root = epath.Path(options.scenes) / f"{options.split}-{options.seed}-{options.num}"
    if not root.exists():
        write_scenes(root, options.num, options.seed, options.split)
    gsva = gsva_jax.load(options.checkpoint)
    dataset = DATASETS[options.split]
    reports = {protocol: evaluate(gsva, root, dataset, protocol, batch_size=16) for protocol in options.protocols}
    reports["text alone"] = evaluate(gsva, root, dataset, options.protocols[0], batch_size=16, blind=True)
    first = reports[options.protocols[0]]
    told = f"{options.split}, seed {options.seed}"
    print(f"{first['num_images']} scenes of {told}: {first['num_targets']} expressions\n")
    print(f"| protocol | {' | '.join(TOTALS)} |\n|---|{'---|' * len(TOTALS)}")
    for name, report in reports.items():
        print(f"| {name} | {' | '.join(_shown(report[metric]) for metric in TOTALS)} |")
    blind = reports["text alone"]
    print(f"\ntext alone: (N_acc + T_acc) / 2 = {(blind['N_acc'] + blind['T_acc']) / 2:.3f}\n")
    print(f"| {options.protocols[0]} | expressions | IoU >= 0.5 | gIoU | T_acc |\n|---|---|---|---|---|")
    for kind in KINDS:
        numbers = (_shown(first[f"{metric}[{kind}]"]) for metric in ("Pr@0.5", "gIoU", "T_acc"))
        print(f"| {kind} | {first[f'num_targets[{kind}]']} | {' | '.join(numbers)} |")
    print(f"| absent | {first['num_targets[absent]']} | N_acc {_shown(first['N_acc[absent]'])} | | |")
    score, specks = outlines(gsva, root, dataset)
    print(f"\noutlines: boundary F (3 px) {score:.3f}; masks with a speck of less than 20 px: {specks:.3f}")
    if options.json:
        epath.Path(options.json).write_text(json.dumps(reports, indent=2) + "\n")


def outlines(gsva: gsva_jax.Gsva, root: epath.Path, dataset: str) -> tuple[float, float]:
    """Of the guided masks of targets that are there and accepted: mean boundary F-score, and the share with a speck."""
    scores, specks = [], []
    for record in tracked(list(open_dataset(root, dataset)), "outlines"):
        answer = gsva.segment(open_picture(record.image), record.expressions)
        for target, mask, absent in zip(answer.targets, record.masks, record.rejected, strict=True):
            if not absent and not target.rejected:
                scores.append(boundary_f_score(target.mask, mask))
                specks.append(has_speck(target.mask))
    return float(np.mean(scores)), float(np.mean(specks))


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(tyro.cli(Options))
