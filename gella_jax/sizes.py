"""What the shapes of a checkpoint can't tell: the keys of GELLA's `--sizes` file."""

from __future__ import annotations

from grounding_jax.weights import sizes
from grounding_jax.weights.sizes import CLIP, LLAMA, Keys, Untold

KEYS: Keys = {
    **LLAMA,
    **CLIP,
    "nheads": ("mask2former", "heads"),
    "num_queries": ("mask2former", "queries"),
    "resoblend_dim": ("blend", "width"),
    "sa": ("blend", "sa"),
    "ca": ("blend", "ca"),
    "ff": ("blend", "ff"),
    "res": ("blend", "res"),
    "conv": ("blend", "conv"),
    "assoc": ("association", "kind"),
    "colours": ("gella", "colours"),
    "side": ("gella", "side"),
    "seg_state": ("gella", "seg_state"),
    "vision_layer": ("gella", "vision_layer"),
    "mm_vision_select_layer": ("gella", "vision_layer"),
    "conv_type": ("gella", "template"),
    "template": ("gella", "template"),
    "model_max_length": ("gella", "model_max_length"),
}
UNTOLD: Untold = {
    **sizes.UNTOLD,
    "mask2former": {"heads": ("num_attention_heads",), "queries": ("num_queries",)},
    "blend": {"width": ()},
    "gella": {
        "colours": (),
        "side": (),
        "seg_state": (),
        "vision_layer": ("mm_vision_select_layer", "vision_feature_layer"),
        "template": ("template",),
    },
}
