"""GSVA (Xia et al. 2024, arXiv:2312.10103): a language model that answers with masks or with a refusal.

Pure functions over plain nested dicts of parameters: ``llama``, ``clip``, ``projector``, ``prompt_mlp``, ``sam``.
A row is one picture with its conversations as branches behind a shared prefix (docs/architecture.md); pictures
come as uint8 and are normalised here.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from grounding_jax.language.tokenizer import Tokenizer
from grounding_jax.models import clip, llama, llava, sam
from grounding_jax.models.layers import Linear, Mlp
from grounding_jax.models.normalize import normalize_clip, normalize_sam
from gsva_jax.config import GsvaConfig


def init(config: GsvaConfig, key: jax.Array) -> dict:
    """Random parameters of the whole model, float32."""
    keys = jax.random.split(key, 5)
    patches, hidden = jnp.zeros((1, config.clip.width)), jnp.zeros((1, config.llama.width))
    return {
        "llama": llama.init(config.llama, keys[0]),
        "clip": clip.init(config.clip, keys[1]),
        "projector": Linear(config.llama.width).init(keys[2], patches)["params"],
        "prompt_mlp": _prompt_mlp(config).init(keys[3], hidden)["params"],
        "sam": sam.init(config.sam, keys[4]),
    }


def _prompt_mlp(config: GsvaConfig) -> Mlp:
    """The release's text_hidden_fcs: from the language model's width to SAM's prompts (spec gsva a.8)."""
    return Mlp(config.llama.width, config.sam.prompt_width, "relu")


def encode_for_masks(config: GsvaConfig, params: dict, images: jax.Array, resized: jax.Array, dtype) -> jax.Array:
    """SAM's image embedding.

    Args:
        config: sizes.
        params: the whole tree.
        images: uint8 ``[B, S, S, 3]``, resized to SAM's side and padded on the right and bottom.
        resized: int32 ``[B, 2]``, height and width of the picture inside.
        dtype: dtype of the computation.

    Returns:
        ``[B, h, w, C]``.
    """
    pixels = normalize_sam(images, resized).astype(dtype)
    return sam.encode_image(config.sam, params["sam"], pixels)[0]


def encode_for_language(config: GsvaConfig, params: dict, images: jax.Array, dtype) -> jax.Array:
    """Projected CLIP patches: uint8 ``[B, H, W, 3] -> [B, P, D]``."""
    pixels = normalize_clip(images).astype(dtype)
    features = clip.patch_features(config.clip, params["clip"], pixels, config.select_layer)
    return Linear(config.llama.width).apply({"params": params["projector"]}, features)


def make_prompts(config: GsvaConfig, params: dict, hidden: jax.Array) -> jax.Array:
    """SAM's prompts from the hidden states that predict [SEG] (spec gsva a.8): ``[B, M, D] -> [B, M, C]``."""
    return _prompt_mlp(config).apply({"params": params["prompt_mlp"]}, hidden)


def decode_masks(config: GsvaConfig, params: dict, prompts: jax.Array, image: jax.Array) -> jax.Array:
    """Mask logits for prompts (spec gsva a.9).

    Args:
        config: sizes.
        params: the whole tree.
        prompts: ``[B, M, C]`` from `make_prompts`.
        image: SAM's embedding of each row's picture ``[B, h, w, C]``.

    Returns:
        float32 ``[B, M, 4h, 4w]``.
    """
    B, M, C = prompts.shape
    image = jnp.repeat(image, M, axis=0)
    logits, _ = sam.predict_masks(config.sam, params["sam"], image, text=prompts.reshape(B * M, 1, C))
    return logits.astype(jnp.float32).reshape(B, M, *logits.shape[-2:])


def gather(hidden: jax.Array, seg_positions: jax.Array) -> jax.Array:
    """Hidden states at given slots: ``[B, T, D], int32 [B, M] -> [B, M, D]``; slots below 0 read slot 0."""
    return jnp.take_along_axis(hidden, jnp.maximum(seg_positions, 0)[..., None], axis=1)


def seg_probability(tokenizer: Tokenizer, logits: jax.Array) -> jax.Array:
    """Probability of [SEG] against [REJ]: float32 ``[..., V] -> [...]``; 1 for a model without [REJ]."""
    if tokenizer.rej is None:
        return jnp.ones(logits.shape[:-1], jnp.float32)
    seg = jax.nn.logsumexp(logits[..., jnp.array(tokenizer.seg)], axis=-1)
    return jax.nn.sigmoid(seg - logits[..., tokenizer.rej])


def forward(
    config: GsvaConfig,
    params: dict,
    batch: dict[str, jax.Array],
    dtype=jnp.float32,
    dropout_keys: jax.Array | None = None,
) -> dict[str, jax.Array]:
    """The training forward pass (spec gsva a.10).

    Args:
        config: sizes.
        params: the whole tree.
        batch: the row arrays ``ids, positions, branch [B, T]``, ``seg_positions, target_rejected [B, M]`` and the
            pictures ``sam_images [B, S, S, 3]``, ``resized [B, 2]``, ``clip_images [B, H, W, 3]``; in place of
            ``sam_images``, ``image_features [B, h, w, C]`` may be there, which `encode_for_masks` gave before.
        dtype: dtype of the computation.
        dropout_keys: see `llama.Decoder`.

    Returns:
        ``patches`` ``[B, P, D]`` as the language model sees them; ``hidden`` ``[B, T, D]`` as it leaves them;
        ``logits`` float32 ``[B, T, V]``; ``prompts`` ``[B, M, C]``; ``masks`` float32 ``[B, M, 4h, 4w]``, zero for
        rejected and truncated targets. SAM's encoder is not computed where M is 0.
    """
    image = batch.get("image_features")
    if image is None:
        image = encode_for_masks(config, params, batch["sam_images"], batch["resized"], dtype)
    patches = encode_for_language(config, params, batch["clip_images"], dtype)
    row = batch["ids"], batch["positions"], batch["branch"]
    hidden, _ = llava.decode(config.llama, params["llama"], *row, patches, dropout_keys=dropout_keys)
    prompts = make_prompts(config, params, gather(hidden, batch["seg_positions"]))
    masks = decode_masks(config, params, prompts, image)
    no_mask = batch["target_rejected"] | (batch["seg_positions"] < 0)
    return {
        "patches": patches,
        "hidden": hidden,
        "logits": llama.logits(config.llama, params["llama"], hidden),
        "prompts": prompts,
        "masks": jnp.where(no_mask[..., None, None], 0.0, masks),
    }
