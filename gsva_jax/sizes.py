"""What the shapes of a checkpoint can't tell: the keys of GSVA's `--sizes` file."""

from __future__ import annotations

from grounding_jax.weights import sizes
from grounding_jax.weights.sizes import CLIP, LLAMA, Keys, Untold

KEYS: Keys = {
    **LLAMA,
    **CLIP,
    "sam_img": ("sam", "image_size"),
    "sam_patch": ("sam", "patch_size"),
    "sam_dim": ("sam", "width"),
    "sam_depth": ("sam", "layers"),
    "sam_heads": ("sam", "heads"),
    "sam_global": ("sam", "global_blocks"),
    "sam_window": ("sam", "window"),
    "sam_ln_eps": ("sam", "eps"),
    "pdim": ("sam", "prompt_width"),
    "dec_mlp": ("sam", "decoder_hidden"),
    "dec_heads": ("sam", "decoder_heads"),
    "two_way_depth": ("sam", "decoder_layers"),
    "sam_iou_head_hidden": ("sam", "iou_hidden"),
    "sam_iou_head_depth": ("sam", "iou_layers"),
    "mm_vision_select_layer": ("gsva", "select_layer"),
    "conv_type": ("gsva", "template"),
    "template": ("gsva", "template"),
    "model_max_length": ("gsva", "model_max_length"),
}
UNTOLD: Untold = {
    **sizes.UNTOLD,
    "sam": {"decoder_heads": (), "eps": ()},
    "gsva": {"select_layer": ("mm_vision_select_layer",), "template": ("template",), "model_max_length": ()},
}
