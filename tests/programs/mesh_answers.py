"""What the tiny model answers on one device and on meshes; run by tests/programs/test_mesh_answers.py as a program.

    python -m tests.programs.mesh_answers OUT_FOLDER

A case is "one" or data,fsdp,tensor. Its reports and layouts go to CASE.json, its numbers to CASE.npz, and every
prediction of a protocol to CASE-PROTOCOL.jsonl.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import gsva_jax
from grounding_jax.data.datasets import open_dataset
from grounding_jax.files.pictures import open_picture
from grounding_jax.models import llama
from gsva_jax import engine, prompts, steps
from gsva_jax.config import ASSETS
from gsva_jax.evaluation.run import evaluate

SCENES, DATASET = ASSETS / "scenes", "grefcoco|unc|testA"
PROTOCOLS = ("guided", "generated")
ROWS = 5  # divide over no mesh of several devices


def load(case: str) -> gsva_jax.Gsva:
    """The tiny model as a case has it."""
    shape = None if case == "one" else gsva_jax.MeshShape(*map(int, case.split(",")))
    return gsva_jax.load("tiny", np.float32, shape)


def answer(case: str, out: Path) -> None:
    """Answers about some scenes, step by step, and evaluates on all of them, as many at once."""
    gsva, records = load(case), list(open_dataset(SCENES, DATASET))[:ROWS]
    texts = [record.expressions for record in records]
    image, patches = engine.encode_image(gsva.engine, [open_picture(record.image) for record in records])
    row = gsva.engine.batcher.rows([[[prompts.guided_list(some)]] for some in texts], texts)
    row, reading, score = engine.guided_decode(gsva.engine, row, patches, 0.5)
    low = steps.decode_masks(gsva.engine.config, gsva.engine.params, reading.hidden, image)
    np.savez(out / f"{case}.npz", low=np.asarray(low), score=score, rejected=row["target_rejected"])
    reports = [
        evaluate(gsva, SCENES, DATASET, protocol, None, out / f"{case}-{protocol}.jsonl", batch_size=ROWS)
        for protocol in PROTOCOLS
    ]
    layer = gsva.engine.params["llama"]["layers"]
    arrays = {"q": layer["attn"]["q"]["kernel"], "down": layer["mlp"]["down"]["kernel"], "image": image}
    arrays |= {"patches": patches, "hidden": reading.hidden, "cache": reading.cache["k"]}
    specs = {name: str(getattr(array.sharding, "spec", "one device")) for name, array in arrays.items()}
    (out / f"{case}.json").write_text(json.dumps({"reports": reports, "specs": specs}))


def head(case: str, out: Path) -> None:
    """Only the logits of some states."""
    gsva = load(case)
    hidden = jax.random.normal(jax.random.key(0), (ROWS, gsva.engine.config.llama.width))
    logits = llama.logits(gsva.engine.config.llama, gsva.engine.params["llama"], hidden)
    np.savez(out / f"head-{case}.npz", logits=logits, tokens=gsva.engine.tokenizer.vocab_size)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in ("one", "2,2,2"):
        answer(name, folder)
    for name in ("one", "1,1,8"):
        head(name, folder)
