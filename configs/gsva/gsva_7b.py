"""GSVA-7B, pre-training on the mixture (paper table A3, first row; spec gsva e).

    gsva import --format llava --language-model LLAVA --vision-tower CLIP --sam SAM_VIT_H --out llava_sam
    gsva train gsva_7b --init llava_sam --data DATA

DATA holds the datasets of docs/data.md; `gsva data check DATA` tells which configs can run.
"""

from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions
from gsva_jax.training.recipe import GsvaRecipe


def get_config() -> Experiment:
    """Effective batch 160, 5,000 updates; 8 devices or more."""
    return Experiment(
        name="gsva_7b",
        recipe=GsvaRecipe(),
        options=TrainOptions(
            steps=5000,
            batch_size=160,
            accumulate=10,
            learning_rate=3e-4,
            schedule="linear",
            warmup_steps=100,
            b2=0.95,
            mesh=MeshShape(data=1, fsdp=-1, tensor=1),
            save_every=250,
        ),
    )
