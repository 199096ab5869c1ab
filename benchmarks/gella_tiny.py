"""How good a tiny GELLA is: held-out scenes, by kind of phrase, and beside it what it says without the picture.

python benchmarks/gella_tiny.py                                  # the shipped model on 500 test scenes
python benchmarks/gella_tiny.py --checkpoint RUN@best --split val --num 200
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import tyro
from etils import epath

import gella_jax
from gella_jax.evaluation.run import evaluate
from gella_jax.evaluation.tasks import Item, Setting, predict_narratives, report_narratives
from gella_jax.predict import Gella
from grounding_jax.data.datasets import open_dataset
from grounding_jax.data.scenes.write_narrated import write_narrated_scenes
from grounding_jax.data.sources.narratives import NarrativeRecord
from grounding_jax.files.pictures import open_picture
from grounding_jax.metrics.narrative import Phrase
from grounding_jax.terminal import tracked

BATCH = 16
RECALLS = ("AR", "AR_things", "AR_stuff", "AR_singulars", "AR_plurals", "AR_text")
Change = Callable[[Item, Item], Item]  # of a scene, with the one after it


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure.

    Attributes:
        checkpoint: a model folder, or the name of a shipped model.
        split: models are chosen on val and reported on test.
        num: scenes.
        seed: of the scenes; training used others.
        scenes: folder for the scenes.
        json: file for all numbers.
    """

    checkpoint: str = "tiny"
    split: Literal["val", "test"] = "test"
    num: int = 500
    seed: int = 1
    scenes: str = "out/narrated"
    json: str | None = None


def without_picture(item: Item, other: Item) -> Item:
    """The same in front of a grey picture."""
    return item._replace(image=np.full_like(item.image, 128))


def with_other_masks(item: Item, other: Item) -> Item:
    """The same with the masks of another scene."""
    return item._replace(entities=other.entities)


def with_other_caption(item: Item, other: Item) -> Item:
    """The same with the caption of another scene, whose phrases are held against ours in turn."""
    ours, theirs = item.record, other.record
    count = len(theirs.raw_expressions)
    segment_ids = tuple(ours.segment_ids[k % len(ours.segment_ids)] for k in range(count))
    texts = dict(caption=theirs.caption, raw_expressions=theirs.raw_expressions, spans=theirs.spans, families=None)
    return item._replace(record=dataclasses.replace(ours, segment_ids=segment_ids, **texts))


def in_another_order(item: Item, other: Item) -> Item:
    """The same with the masks the other way round."""
    e = item.entities
    turned = e._replace(masks=e.masks[::-1], ids=e.ids[::-1], names=e.names[::-1], category_ids=e.category_ids[::-1])
    return item._replace(entities=turned)


BASELINES: dict[str, Change] = {
    "grey picture": without_picture,
    "another scene's masks": with_other_masks,
    "another scene's caption": with_other_caption,
    "masks in another order": in_another_order,
}


def narratives(gella: Gella, records: Sequence[NarrativeRecord], change: Change, title: str) -> tuple[dict, list[dict]]:
    """The report of captions whose nouns are given, and its lines, after a change of each."""
    setting = Setting("guided", "input", (), lambda records, pictures: [])
    items = [Item(record, open_picture(record.image), record.entities) for record in records]
    changed = [change(item, items[(k + 1) % len(items)]) for k, item in enumerate(items)]
    chunks = [changed[k : k + BATCH] for k in range(0, len(changed), BATCH)]
    lines = [line for chunk in tracked(chunks, title) for line in predict_narratives(gella, setting, chunk)]
    return report_narratives(setting, lines), lines


def by_family(records: Sequence[NarrativeRecord], lines: Sequence[dict]) -> dict[str, tuple[int, float, float]]:
    """For each kind of phrase: how many there are, their mean IoU, and the share with an IoU of at least .5."""
    found = collections.defaultdict(list)
    for record, line in zip(records, lines, strict=True):
        for family, values in zip(record.families, line["phrases"], strict=True):
            if values["num_segments"]:
                found[family].append(Phrase(**values).iou)
    return {
        family: (len(ious), float(np.mean(ious)), float(np.mean(np.array(ious) >= 0.5)))
        for family, ious in sorted(found.items())
    }


def main(options: Options) -> None:
    """Prints Markdown tables."""
    root = epath.Path(options.scenes) / f"{options.split}-{options.seed}-{options.num}"
    if not root.exists():
        write_narrated_scenes(root, options.num, options.seed, options.split)
    gella = gella_jax.load(options.checkpoint)
    asked = dict(batch_size=BATCH, masks="truth")
    records = list(open_dataset(root, "png|val2017"))
    given, lines = narratives(gella, records, lambda item, other: item, "nouns given")
    reports = {
        "nouns given": given,
        "nouns generated": evaluate(gella, root, "png|val2017", "generated", **asked),
        "official": evaluate(gella, root, "png|val2017", "official", **asked),
    }
    if gella.segmenter:
        reports["its own masks, nouns given"] = evaluate(gella, root, "png|val2017", "guided", batch_size=BATCH)
    for name, change in BASELINES.items():
        reports[name], _ = narratives(gella, records, change, name)
    refer = evaluate(gella, root, "refcoco|unc|val", "guided", **asked)
    panoptic = evaluate(gella, root, "panoptic|val2017", "official", **asked)

    print(f"\n{len(records)} scenes of {options.split}, seed {options.seed}: {given['num_targets']} phrases\n")
    print(f"| captions | {' | '.join(RECALLS)} |\n|---|{'---|' * len(RECALLS)}")
    for name, report in reports.items():
        print(f"| {name} | {' | '.join(_shown(report.get(metric)) for metric in RECALLS)} |")
    families = by_family(records, lines)
    print("\n| kind of phrase | phrases | IoU | IoU >= .5 |\n|---|---|---|---|")
    for family, (count, iou, right) in families.items():
        print(f"| {family} | {count} | {iou:.3f} | {right:.3f} |")
    print(f"\nrefer, {refer['num_targets']} expressions: cIoU {refer['cIoU']:.3f}, mIoU {refer['mIoU']:.3f}")
    print(f"panoptic: PQ {panoptic['PQ']:.3f}, SQ {panoptic['SQ']:.3f}, RQ {panoptic['RQ']:.3f}")
    if options.json:
        content = {**reports, "refer": refer, "panoptic": panoptic, "families": families}
        epath.Path(options.json).write_text(json.dumps(content, indent=2) + "\n")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    main(tyro.cli(Options))
