"""The sharding tables of the architecture files, for paths below each model's own tree.

Matrices are split over ``fsdp`` along one dimension and over ``tensor`` along the other: what a block reads with is
split by columns, what it writes back with by rows, so a block needs one sum over ``tensor``. Small arrays are whole.
"""

from __future__ import annotations

from jax.sharding import PartitionSpec as P

from grounding_jax.sharding.rules import REPLICATED, Rule, prefixed

LLAMA: tuple[Rule, ...] = (
    ("embed/embedding", P("tensor", "fsdp")),
    ("layers/attn/[qkv]/kernel", P(None, "fsdp", "tensor")),
    ("layers/attn/o/kernel", P(None, "tensor", "fsdp")),
    ("layers/mlp/(gate|up)/kernel", P(None, "fsdp", "tensor")),
    ("layers/mlp/down/kernel", P(None, "tensor", "fsdp")),
    ("(layers/(attn|mlp)_)?norm/scale", REPLICATED),
    ("head/kernel", P("fsdp", "tensor")),
)

# The update of a column-split matrix: its narrow side is whole.
LORA: tuple[Rule, ...] = (
    ("layers/attn/[qv]/lora_a", P(None, "fsdp")),
    ("layers/attn/[qv]/lora_b", P(None, None, "tensor")),
)

CLIP: tuple[Rule, ...] = (
    ("patch_embed/kernel", P(None, "fsdp")),
    ("layers/attn/[qkv]/kernel", P(None, "fsdp", "tensor")),
    ("layers/attn/[qkv]/bias", P(None, "tensor")),
    ("layers/attn/o/kernel", P(None, "tensor", "fsdp")),
    ("layers/mlp/fc1/kernel", P(None, "fsdp", "tensor")),
    ("layers/mlp/fc1/bias", P(None, "tensor")),
    ("layers/mlp/fc2/kernel", P(None, "tensor", "fsdp")),
    ("layers/(attn/o|mlp/fc2)/bias", REPLICATED),
    ("(layers/norm[12]|pre_norm|post_norm)/(scale|bias)", REPLICATED),
    ("(class|pos)_embed", REPLICATED),
)

# q, k and v share one matrix, which a split over ``tensor`` would cut in the wrong places.
SAM: tuple[Rule, ...] = (
    *prefixed(
        "image_encoder/",
        (
            ("patch_embed/kernel", P(None, "fsdp")),
            (r"blocks_\d+/attn/(qkv|proj)/kernel", P("fsdp", None)),
            (r"blocks_\d+/attn/(qkv/bias|proj/bias|rel_pos_[hw])", REPLICATED),
            (r"blocks_\d+/mlp/fc1/kernel", P("fsdp", "tensor")),
            (r"blocks_\d+/mlp/fc1/bias", P("tensor")),
            (r"blocks_\d+/mlp/fc2/kernel", P("tensor", "fsdp")),
            (r"blocks_\d+/(mlp/fc2/bias|norm[12]/(scale|bias))", REPLICATED),
            ("(pos_embed|patch_embed/bias|neck/.*)", REPLICATED),
        ),
    ),
    ("(prompt_encoder|mask_decoder)/.*", REPLICATED),
)

# The heads of a stage, 3 in the first one of Swin-T, seldom divide over ``tensor``.
SWIN: tuple[Rule, ...] = (
    (r"stages_\d+/blocks/(attn/[qkvo]|mlp/fc[12])/kernel", P(None, "fsdp", None)),
    (r"stages_\d+/blocks/(attn/([qkvo]/bias|relative_bias)|mlp/fc[12]/bias|norm[12]/(scale|bias))", REPLICATED),
    (r"stages_\d+/merge/reduction/kernel", P("fsdp", None)),
    (r"(stages_\d+/merge/norm|norm\d|patch_norm)/(scale|bias)", REPLICATED),
    ("patch_embed/(kernel|bias)", REPLICATED),
)

# The deformable attention samples one head after the other, which a split over ``tensor`` would gather.
MASK2FORMER: tuple[Rule, ...] = (
    *prefixed(
        "pixel_decoder/",
        (
            (r"(input_proj_\d|lateral|mask_features)/kernel", P(None, "fsdp")),
            ("fine_conv/kernel", P(None, None, "fsdp", None)),
            ("layers/attn/(offsets|weights|values|out)/kernel", P(None, "fsdp", None)),
            ("layers/mlp/fc1/kernel", P(None, "fsdp", "tensor")),
            ("layers/mlp/fc1/bias", P(None, "tensor")),
            ("layers/mlp/fc2/kernel", P(None, "tensor", "fsdp")),
            ("layers/(attn/((weights|values|out)/bias|offset_bias)|mlp/fc2/bias)", REPLICATED),
            (
                r"(input_proj_\d|mask_features)/bias|(input_norm_\d|(lateral|fine)_norm|layers/norm\d)/(scale|bias)",
                REPLICATED,
            ),
            ("level_embed", REPLICATED),
        ),
    ),
    *prefixed(
        "transformer_decoder/",
        (
            (r"layers_\d+/(cross|self)_attn/[qkv]/kernel", P("fsdp", "tensor")),
            (r"layers_\d+/(cross|self)_attn/[qkv]/bias", P("tensor")),
            (r"layers_\d+/(cross|self)_attn/o/kernel", P("tensor", "fsdp")),
            (r"layers_\d+/mlp/fc1/kernel", P("fsdp", "tensor")),
            (r"layers_\d+/mlp/fc1/bias", P("tensor")),
            (r"layers_\d+/mlp/fc2/kernel", P("tensor", "fsdp")),
            (r"heads/mask_embed_\d/kernel", P(None, "fsdp")),
            (r"layers_\d+/(((cross|self)_attn/o|mlp/fc2)/bias|norm\d/(scale|bias))", REPLICATED),
            (r"heads/(mask_embed_\d/bias|class_embed/(kernel|bias)|norm/(scale|bias))", REPLICATED),
            ("query_feat|query_embed|level_embed", REPLICATED),
        ),
    ),
)
