"""Tiny GSVA by the way of the large ones: packed scenes, the paper's loss, no helpers (docs/tiny.md).

    gsva data scenes --out SCENES --num 25600 --seed 5 --split train --size 144
    gsva data prepare SCENES PACKED
    gsva train gsva_tiny_packed --data PACKED

Not a row of the paper's table A3. `python benchmarks/production.py` does all of it in two processes, with an
interruption, and holds the result against the shipped model.
"""

from grounding_jax.data.scenes.expressions import MAX_EXPRESSIONS
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions
from gsva_jax.data.mixture import Family
from gsva_jax.training.recipe import GsvaRecipe

SIDE = 144  # of the scenes: the frame of its SAM


def get_config() -> Experiment:
    """Begins where `gsva_tiny` does, and trains what that does."""
    encoders = ("clip", "sam/image_encoder")
    return Experiment(
        name="gsva_tiny_packed",
        recipe=GsvaRecipe(
            families=(Family(1, ("grefcoco|unc|train",)),),
            validation="",
            max_targets=MAX_EXPRESSIONS,
            length=320,
            canvas=SIDE,
            remat="none",
            dtype="float32",
            trainable=("llama", "projector", "prompt_mlp", "sam/mask_decoder", *encoders),
        ),
        options=TrainOptions(
            steps=1600,
            batch_size=16,
            accumulate=2,
            learning_rate=8e-4,
            final_rate=0.02,
            slow=encoders,
            mesh=MeshShape(data=-1, fsdp=1, tensor=1),
        ),
        starts_from=("gsva_tiny_eyes", "gsva_tiny_masks", "gsva_tiny_words"),
        result_dtype="bfloat16",
    )
