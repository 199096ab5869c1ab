"""GELLA-7B by the paper's recipe: Tables 2 to 4, and the rows of Tables 5 and 7 to 10 with everything (spec gella c).

    gella import --format llava --language-model LLAVA_7B --vision-tower CLIP_336 \\
        --mask2former ENTITY_SWIN_T --out START
    gella train gella_7b --init START --data DATA

Published: AR 69.8 on PNG (things 66.2, stuff 72.3, singulars 69.9, plurals 58.4), AR_text 96.1; cIoU 76.1 on RefCOCO
val; PQ 53.1, SQ 83.3, RQ 63.8 on COCO panoptic, SQ 83.4 in Table 4. LLAVA_7B is LLaVA-1.5, CLIP_336 its tower,
ENTITY_SWIN_T a Mask2Former for entities with a Swin-T; DATA holds the datasets of docs/data.md, and `gella data check
DATA` tells which are there.
"""

from gella_jax.training.recipe import GellaRecipe
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.experiment import Experiment
from grounding_jax.training.options import TrainOptions

# As Mask2Former: norms, biases and embeddings. In the vocabulary most rows learn nothing: decay would still move them.
NO_DECAY = (r".*(scale|bias|embed|query_feat)$", "llama/(embed|head)/")


def get_config() -> Experiment:
    """50 epochs of narratives, beside which nouns and descriptions are learned; 8 devices or more."""
    return Experiment(
        name="gella_7b",
        recipe=GellaRecipe(epochs=50),
        options=TrainOptions(
            steps=700_000,  # of PNG; epochs set it
            batch_size=16,
            learning_rate=1e-5,
            schedule="steps",
            drops=(46 / 50, 48 / 50),
            warmup_steps=10,
            b1=0.9,
            b2=0.999,
            weight_decay=0.05,
            no_decay=NO_DECAY,
            clip_norm=0.01,
            mesh=MeshShape(data=1, fsdp=-1, tensor=1),
            save_every=1000,
        ),
    )
