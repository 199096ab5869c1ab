"""GSVA, finetuned on pictures, expressions and masks of one's own (docs/training.md; not in paper table A3).

    gsva import --format official gsva-7b-pt.bin --language-model LLAVA --vision-tower CLIP --out gsva-7b-pt
    gsva train gsva_own_data --init gsva-7b-pt --data MINE

MINE/train.jsonl lists the data, a picture a line (docs/data.md), and MINE/val.jsonl pictures that tell how it does;
`--validation ""` does without. Any model is a start, of any size.
"""

import dataclasses

from grounding_jax.training.experiment import Experiment
from gsva_jax.data.mixture import Family
from gsva_jax.training.experiment import load_config


def get_config() -> Experiment:
    """As on gRefCOCO, but for hundreds of pictures: small batches, a short warm-up. Pictures may be of any size."""
    base = load_config("gsva_7b_grefcoco")
    data = dict(families=(Family(1, ("jsonl|train.jsonl",)),), validation="jsonl|val.jsonl")
    recipe = dataclasses.replace(base.recipe, canvas=1024, **data)
    options = dataclasses.replace(base.options, batch_size=16, accumulate=2, warmup_steps=10)
    return dataclasses.replace(base, name="gsva_own_data", recipe=recipe, options=options)
