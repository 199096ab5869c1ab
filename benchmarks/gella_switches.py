"""Presets and switches of GELLA's mask branch, each trained for the same short time on scenes, beside the paper's rows.

python benchmarks/gella_switches.py --init gsva_jax/assets/tiny            # a table in Markdown
python benchmarks/gella_switches.py --init gsva_jax/assets/tiny --only skip paper --steps 100

Each row is the first lesson of the tiny GELLA (`gella_tiny_masks`) from the same start: masks of a colormap, and which
of them is of which kind. AR: nouns with the masks that were put in; mask IoU: those masks with the decoded ones; kinds:
queries whose kind a linear layer reads. Rows that are done stay in the folder of the runs; called again, it goes on.
"""

import dataclasses
import json

import tyro
from etils import epath

from gella_jax.tiny.pretraining import QueryPretraining
from gella_jax.training.experiment import GELLA
from grounding_jax.training.loop import train
from grounding_jax.training.options import TrainOptions
from grounding_jax.training.runs import load_starts, origin_of

# Tables 5b, 7 and 10 of the paper: PQ, or AR for the association (spec gella i).
PUBLISHED = {
    "skip": "",
    "paper": "53.1 PQ",
    "mask_query": "",
    "paper, no SA": "51.8 PQ",
    "paper, no CA": "43.1 PQ",
    "paper, no FF": "52.8 PQ",
    "paper, no RES": "50.9 PQ",
    "paper, no CONV": "52.4 PQ",
    "skip, colours by location": "52.9 PQ (random 53.1)",
    "skip, fc_relu_fc": "69.7 AR (fc 69.8)",
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What to train.

    Attributes:
        init: model folder whose CLIP all rows look through.
        only: rows to train; all by default.
        steps: updates of each.
        runs: folder of the runs.
    """

    init: str
    only: tuple[str, ...] = ()
    steps: int = 300
    runs: str = "runs/gella_switches"


def recipe_of(row: str) -> QueryPretraining:
    """The recipe of a row: a preset, and what is changed."""
    preset, *changes = row.split(", ")
    return QueryPretraining(
        blend=preset,
        without=tuple(change.removeprefix("no ").lower() for change in changes if change.startswith("no ")),
        colours="location" if "colours by location" in changes else "",
        association_kind="fc_relu_fc" if "fc_relu_fc" in changes else "",
    )


def scores(options: Options, row: str) -> dict[str, float]:
    """Those of the last validation of a row, which is trained where it is not yet."""
    place = epath.Path(options.runs) / row.replace(", ", "-").replace(" ", "_")
    recipe = recipe_of(row)
    training = TrainOptions(
        steps=options.steps, batch_size=16, learning_rate=1e-3, final_rate=0.05, warmup_steps=50,
        save_every=options.steps, pictures=0,
    )  # fmt: skip
    start = epath.Path(options.init).resolve()
    origin = origin_of(row, recipe, GELLA.recipes, recipe, [start], "float32")
    train(recipe, training, place, load_starts(recipe, [start]), dataclasses.asdict(origin))
    kinds = [json.loads(line) for line in (place / "log.jsonl").read_text().splitlines()]
    last = json.loads((place / "validation.jsonl").read_text().splitlines()[-1])
    accuracy = [line["kind_accuracy"] for line in kinds if "kind_accuracy" in line][-5:]
    return {**last, "kinds": sum(accuracy) / len(accuracy)}


def main(options: Options) -> None:
    """Trains all rows and prints the table."""
    rows = options.only or tuple(PUBLISHED)
    found = {row: scores(options, row) for row in rows}
    print(f"\n{options.steps} updates of 16 scenes each, 256 scenes of val\n")
    print("| row | AR | mask IoU | kinds | published |\n|---|---|---|---|---|")
    for row, one in found.items():
        print(f"| {row} | {one['AR']:.3f} | {one['mask_IoU']:.3f} | {one['kinds']:.3f} | {PUBLISHED[row]} |")


if __name__ == "__main__":
    main(tyro.cli(Options))
