"""One golden training step on meshes; run by tests/programs/test_sharding.py as a program: it needs devices.

    python -m tests.programs.sharded_golden WEIGHTS_AND_NUMBERS OUT.json CASE...

A case is data,fsdp,tensor,accumulate,dropout; with 0 for accumulate nothing is trained. In several processes, every one
writes what it sees, and together they write the model that they started from as the folder CASE beside OUT; see
`hosts.start`.
"""

import dataclasses
import functools
import json
import sys
from pathlib import Path

import jax
import numpy as np
import optax

from grounding_jax.sharding import hosts
from grounding_jax.sharding.mesh import BATCH, MeshShape, global_batch, local_rows, make_mesh
from grounding_jax.sharding.rules import REPLICATED
from grounding_jax.training.loop import place
from grounding_jax.training.runs import save_result
from grounding_jax.training.state import init_state, partition, path_matcher, state_shardings
from grounding_jax.training.step import make_update
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import Checkpoint
from gsva_jax.losses import LossWeights
from gsva_jax.training.task import TRAINED, GsvaTask
from gsva_jax.weights import open_official
from tests.gsva.test_training_golden import make_batch

STEPS = 2
DROPOUT = 0.05


@functools.cache
def read_golden(golden: Path) -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """The model and a batch of eight."""
    checkpoint = open_official(golden / "gsva-tiny-a.bin", golden / "tiny-llava", sizes=golden / "config.json")
    stored = dict(np.load(golden / "train_batch.npz"))
    meta = json.loads((golden / "meta.json").read_text())
    batch = make_batch(stored, meta, checkpoint, separate=False)
    # The four images of the batch, twice: so many rows divide over eight devices, and every mean stays as it is.
    batch = {name: np.concatenate([array, array]) for name, array in batch.items()}
    return checkpoint, {**batch, "example": np.arange(8, dtype=np.int32)}


def run(golden: Path, case: str, models: Path | None) -> dict:
    """Losses and gradient norms of some updates on a mesh, and how some arrays lie on it."""
    data, fsdp, tensor, accumulate, dropout = map(int, case.split(","))
    checkpoint, batch = read_golden(golden)
    config = checkpoint.config
    if dropout:
        config = dataclasses.replace(config, llama=dataclasses.replace(config.llama, lora_dropout=DROPOUT))
    task = GsvaTask(config, checkpoint.tokenizer, None, LossWeights(loss_group=4), dtype="float32")
    mesh = make_mesh(MeshShape(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
    params = place(task, mesh, 0, task.import_params(folder.to_params(checkpoint.leaves)))
    if models:
        save_result(task, params, models / case, "float32")
    rows = local_rows(mesh, 8)
    if not accumulate:
        return {"rows": rows}
    trained, frozen = partition(params, path_matcher(TRAINED))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, 0.9, 0.95, eps=1e-8, weight_decay=0.0))
    whole = jax.sharding.NamedSharding(mesh, REPLICATED)
    placed = state_shardings(optimizer, trained, jax.tree.map(lambda leaf: leaf.sharding, trained), whole)
    state = jax.jit(init_state, static_argnums=0, out_shardings=placed)(optimizer, trained)
    update = jax.jit(make_update(task, optimizer, accumulate), donate_argnums=0, out_shardings=(placed, whole))
    spread = global_batch(mesh, 8, rows, {name: array[rows] for name, array in batch.items()})
    trajectory = []
    for _ in range(STEPS):
        state, scalars = update(state, frozen, spread)
        trajectory.append([float(scalars[name]) for name in ("loss", "ce", "bce", "dice", "grad_norm")])
    moment = optax.tree.get(state.opt_state, "mu")
    return {
        "trajectory": trajectory,
        "rows": rows,
        "embedding": str(state.params["llama"]["embed"]["embedding"].sharding.spec),
        "moment": str(moment["llama"]["embed"]["embedding"].sharding.spec),
        "frozen": str(frozen["llama"]["layers"]["mlp"]["down"]["kernel"].sharding.spec),
        "batch": spread["ids"].sharding.spec == BATCH,
    }


if __name__ == "__main__":
    hosts.start()
    golden, out, *cases = sys.argv[1:]
    models = Path(out).parent if jax.process_count() > 1 else None
    Path(out).write_text(json.dumps({case: run(Path(golden), case, models) for case in cases}))
