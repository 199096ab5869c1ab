"""PyTorch checkpoints in and out: safe readers, two-way tables, streaming writers, our model folder.

A published part is loaded in one call:

    from grounding_jax import weights

    config, params = weights.sam.load("sam_vit_h_4b8939.pth")

and likewise `clip`, `llama`, `swin`, `mobilenet` and `mask2former`.
"""

from grounding_jax.weights.tables import clip, llama, mask2former, mobilenet, sam, swin

__all__ = ["clip", "llama", "mask2former", "mobilenet", "sam", "swin"]
