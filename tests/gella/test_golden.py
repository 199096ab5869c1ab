"""The language side of GELLA against the goldens of transformers: CLIP's tower, LLaMA, and LLaVA-1.5 of both."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax

from grounding_jax.models import clip, llama, llava
from grounding_jax.models.llava import IMAGE_TOKEN
from grounding_jax.weights import folder
from grounding_jax.weights.checkpoint import part
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import clip as clip_weights
from grounding_jax.weights.tables import llama as llama_weights
from grounding_jax.weights.tables import llava as llava_weights

TOLERANCE = dict(atol=1e-4, rtol=1e-4)


def opened(path, table) -> tuple[dict, dict, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Leaves and config.json of a golden, and its inputs and outputs, everything in float32 or integers."""
    leaves = table.to_ours(open_weights(path), path.name)
    leaves = {name: leaf.astype(np.float32) for name, leaf in leaves.items()}
    facts = json.loads((path / "config.json").read_text())
    files = (open_weights(path / f"{name}.safetensors") for name in ("inputs", "outputs"))
    return leaves, facts, *({name: tensor.read() for name, tensor in file.items()} for file in files)


def pixels(inputs: dict[str, np.ndarray]) -> np.ndarray:
    return inputs["pixel_values"].astype(np.float32).transpose(0, 2, 3, 1)


def rows(inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Ids, positions and branches of rows padded on either side, and where they are real."""
    real = inputs["attention_mask"].astype(bool)
    positions = np.maximum(np.cumsum(real, axis=1) - 1, 0)
    return inputs["input_ids"].astype(np.int32), positions.astype(np.int32), np.where(real, 1, -1), real


def mean_loss(logits: jax.Array, labels: np.ndarray) -> jax.Array:
    """Next-token cross entropy over the tokens that have a label."""
    labels = labels[:, 1:]
    terms = optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], np.maximum(labels, 0))
    return jnp.where(labels >= 0, terms, 0).sum() / (labels >= 0).sum()


def test_clip(golden):
    leaves, facts, inputs, outputs = opened(golden / "gella" / "clip_vision", clip_weights.table())
    config = clip_weights.config(leaves, facts, "config.json")
    pooled, states = jax.jit(lambda params, images: clip.encode(config, params, images))(
        folder.to_params(leaves), pixels(inputs)
    )
    np.testing.assert_allclose(pooled, outputs["pooler_output"], **TOLERANCE)
    for i, state in enumerate(states):
        np.testing.assert_allclose(state, outputs[f"hidden_states.{i}"], err_msg=str(i), **TOLERANCE)
    np.testing.assert_allclose(states[-1], outputs["last_hidden_state"], **TOLERANCE)


def test_llama(golden):
    """States, logits and loss, and the answer that greedy decoding gave, where every token is the likeliest."""
    leaves, facts, inputs, outputs = opened(golden / "gella" / "llama", llama_weights.table(lora=False))
    config = llama_weights.config(leaves, facts, "config.json")
    params = jax.device_put(folder.to_params(leaves))

    @jax.jit
    def run(ids, positions, branch):
        embeddings = llama.embed(params, ids)
        hidden, _ = llama.decode(config, params, embeddings, positions, branch)
        return embeddings, hidden, llama.logits(config, params, hidden)

    ids, positions, branch, real = rows(inputs)
    embeddings, hidden, logits = run(ids, positions, branch)
    np.testing.assert_allclose(embeddings[real], outputs["hidden_states.0"][real], **TOLERANCE)
    np.testing.assert_allclose(hidden[real], outputs["hidden_states.2"][real], **TOLERANCE)
    np.testing.assert_allclose(logits[real], outputs["logits"][real], **TOLERANCE)
    np.testing.assert_allclose(mean_loss(logits, inputs["labels"]), outputs["loss"], **TOLERANCE)
    answer = outputs["greedy_from_first6_row0"].astype(np.int32)
    np.testing.assert_array_equal(answer[0, :6], ids[0, :6])
    # The last token is read by nothing, so one fewer fit the rows that are compiled already.
    row = np.tile(answer[:, :17], (2, 1))
    found = run(row, np.tile(np.arange(17, dtype=np.int32), (2, 1)), np.ones((2, 17), np.int32))[2]
    np.testing.assert_array_equal(found[0, 5:].argmax(-1), answer[0, 6:])


def test_llava(golden):
    """Projected patches, states, logits and loss, all from Hugging Face's file."""
    table = llava_weights.transformers() + llava_weights.transformers_tower()
    leaves, facts, inputs, outputs = opened(golden / "gella" / "llava15", table)
    reader = llama_weights.config(part(leaves, "llama/"), facts["text_config"], "config.json")
    eyes = clip_weights.config(part(leaves, "clip/"), facts, "config.json")
    ids, positions, branch, real = rows(inputs)
    ids = np.where(ids == facts["image_token_index"], IMAGE_TOKEN, ids)

    @jax.jit
    def run(params, images):
        features = clip.patch_features(eyes, params["clip"], images, facts["vision_feature_layer"])
        projector = llava.projector("mlp2x_gelu", reader.width)
        patches = projector.apply({"params": params["projector"]}, features)
        hidden, _ = llava.decode(reader, params["llama"], ids, positions, branch, patches)
        first = llava.embed(params["llama"], ids, patches)
        return patches, first, hidden, llama.logits(reader, params["llama"], hidden)

    patches, first, hidden, logits = run(folder.to_params(leaves), pixels(inputs))
    np.testing.assert_allclose(patches.reshape(-1, reader.width), outputs["image_features_projected"], **TOLERANCE)
    np.testing.assert_allclose(first[real], outputs["hidden_states.0"][real], **TOLERANCE)
    np.testing.assert_allclose(hidden[real], outputs["hidden_states.2"][real], **TOLERANCE)
    np.testing.assert_allclose(logits[real], outputs["logits"][real], **TOLERANCE)
    np.testing.assert_allclose(mean_loss(logits, inputs["labels"]), outputs["loss"], **TOLERANCE)
