"""One training batch against the release: losses, every gradient norm, stored gradients, five AdamW steps."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from grounding_jax.language.rows import encode_conversation, pack_row, stack_rows
from grounding_jax.training.state import combine, partition, path_matcher
from grounding_jax.weights import folder
from grounding_jax.weights.tensors import from_array
from gsva_jax import losses, model, prompts
from gsva_jax.losses import LossWeights
from gsva_jax.training.task import TRAINED, batch_loss
from gsva_jax.weights import official_table, open_official

LENGTH = 384  # of all conversations of an image, packed


@pytest.fixture(scope="module")
def checkpoint(gsva_golden):
    sizes = gsva_golden / "config.json"
    return open_official(gsva_golden / "gsva-tiny-a.bin", gsva_golden / "tiny-llava", sizes=sizes)


@pytest.fixture(scope="module")
def stored(gsva_golden):
    return dict(np.load(gsva_golden / "train_batch.npz"))


@pytest.fixture(scope="module")
def meta(gsva_golden):
    return json.loads((gsva_golden / "meta.json").read_text())


def pictures(stored, i: int, config) -> dict[str, np.ndarray]:
    """The stored SAM picture, padded; CLIP's is stored normalised, so it is turned back into uint8."""
    image = stored[f"sam_image_u8_{i}"]
    padded = np.zeros((config.sam.image_size, config.sam.image_size, 3), np.uint8)
    padded[: image.shape[0], : image.shape[1]] = image
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    values = (stored["images_clip"][i].transpose(1, 2, 0) * std + mean) * 255
    assert np.abs(values - np.rint(values)).max() < 1e-3
    return {
        "sam_images": padded,
        "resized": stored["resize_list"][i].astype(np.int32),
        "clip_images": np.rint(values).astype(np.uint8),
        "original": stored["original_sizes"][i].astype(np.int32),
    }


def make_batch(stored, meta, checkpoint, separate: bool) -> dict[str, np.ndarray]:
    """The four images of the stored batch, the two conversations of the last one in one row or in rows of their own."""
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    template = prompts.TEMPLATES[config.template]
    encoded = [encode_conversation(tokenizer, text, template.separator) for text in meta["train"]["conversations"]]
    offset = stored["offset"]
    groups = [(i, list(range(offset[i], offset[i + 1]))) for i in range(4)]
    if separate:
        groups = [(i, [one]) for i, several in groups for one in several]
    rows, arrays, masks = [], [], []
    for i, conversations in groups:
        rows.append(
            pack_row(
                tokenizer,
                [encoded[c] for c in conversations],
                num_patches=config.clip.num_patches,
                length=LENGTH,
                max_targets=5,
            )
        )
        arrays.append(pictures(stored, i, config))
        truth = stored[f"gt_masks_{i}"]
        if separate and len(groups) > 4 and i == 3:
            truth = truth[conversations[0] - offset[3] :][:1]
        canvas = np.zeros((5, 160, 160), bool)
        canvas[: len(truth), : truth.shape[1], : truth.shape[2]] = truth
        masks.append(canvas)
    batch = {name: np.stack([a[name] for a in arrays]) for name in arrays[0]}
    return {**stack_rows(rows), **batch, "masks": np.packbits(np.stack(masks), axis=-1)}


@pytest.fixture(scope="module")
def compiled(checkpoint):
    """The loss and its gradient as one compiled function of (trained, frozen, batch)."""
    config = checkpoint.config

    def objective(trained, frozen, batch):
        outputs = model.forward(config, combine(frozen, trained), batch)
        group = LossWeights(loss_group=len(batch["ids"]))
        loss, terms = batch_loss(config, group, outputs, losses.prepare(group, batch))
        return loss, (terms, outputs)

    return jax.jit(jax.value_and_grad(objective, has_aux=True))


@pytest.fixture(scope="module")
def trees(checkpoint):
    params = folder.to_params(checkpoint.leaves)
    return partition(jax.tree.map(jnp.asarray, params), path_matcher(TRAINED))


@pytest.fixture(scope="module")
def batch(stored, meta, checkpoint):
    return make_batch(stored, meta, checkpoint, separate=False)


@pytest.fixture(scope="module")
def result(compiled, trees, batch):
    return compiled(*trees, batch)


def torch_names(tree, checkpoint) -> dict[str, np.ndarray]:
    """A tree of gradients under the release's names: the weight table, used on other numbers; holes become zeros."""
    whole = {path: np.zeros(leaf.shape, np.float32) for path, leaf in checkpoint.leaves.items()}
    whole |= {path: leaf.read() for path, leaf in folder.from_params(tree).items()}
    leaves = {path: from_array(array) for path, array in whole.items()}
    return {name: tensor.read() for name, tensor in official_table(lora=True).to_torch(leaves, "gradient").items()}


def test_loss_terms(result, stored):
    (loss, (terms, _)), _ = result
    expected = stored["loss_terms"]
    actual = [loss, terms["ce"], terms["bce"], terms["dice"], terms["mask"]]
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_logits_and_masks(result, stored):
    (_, (_, outputs)), _ = result
    offset, positions = stored["offset"], stored["loss_positions_expanded"]
    for image in range(3):  # one conversation each: slots are the release's positions
        here = positions[:, 0] == offset[image]
        actual = np.asarray(outputs["logits"])[image, positions[here, 1]]
        np.testing.assert_allclose(actual, stored["logits_at_loss_positions"][here], rtol=0, atol=2e-4)
    masks = np.asarray(outputs["masks"])
    np.testing.assert_allclose(masks[0, [0, 3, 4]], stored["low_res_masks_conv0"][:, 0], rtol=0, atol=1e-3)
    assert not masks[0, 1:3].any(), "rejected targets stay at logit 0"
    np.testing.assert_allclose(masks[1, :3], stored["low_res_masks_conv1"][:, 0], rtol=0, atol=1e-3)
    for branch in range(2):
        expected = stored[f"low_res_masks_conv{3 + branch}"][0, 0]
        np.testing.assert_allclose(masks[3, branch], expected, rtol=0, atol=1e-3)


def test_every_gradient_norm(result, meta, checkpoint, gsva_golden):
    _, gradient = result
    named = torch_names(gradient, checkpoint)
    expected = meta["train"]["grad_norms"]
    trainable = json.loads((gsva_golden / "trainable.json").read_text())
    assert sorted([*expected, *meta["train"]["no_grad_but_trainable"]]) == sorted(trainable)
    for name, norm in expected.items():
        np.testing.assert_allclose(np.linalg.norm(named[name]), norm, rtol=1e-3, atol=1e-6, err_msg=name)
    for name in meta["train"]["no_grad_but_trainable"]:
        assert not named[name].any(), name
    np.testing.assert_allclose(optax.tree.norm(gradient), meta["train"]["grad_norm_total"], rtol=1e-3)


def test_exactly_the_releases_parameters_are_trained(trees, checkpoint, gsva_golden):
    trainable = json.loads((gsva_golden / "trainable.json").read_text())
    ones = torch_names(jax.tree.map(jnp.ones_like, trees[0]), checkpoint)
    assert sorted(name for name, array in ones.items() if array.all()) == sorted(trainable)


def test_stored_gradients(result, stored, checkpoint):
    _, gradient = result
    named = torch_names(gradient, checkpoint)
    keys = [key for key in stored if key.startswith("grad/")]
    assert len(keys) == 9
    for key in keys:
        expected = stored[key]
        actual = named[key.removeprefix("grad/")][-len(expected) :]  # of embedding and head the last rows are stored
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-3 * np.abs(expected).max(), err_msg=key)


def test_five_adamw_steps(compiled, trees, batch, stored, checkpoint):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, 0.9, 0.95, eps=1e-8, weight_decay=0.0))
    trained, frozen = trees
    state = optimizer.init(trained)
    for expected in stored["adamw_trajectory"]:
        (loss, (terms, _)), gradient = compiled(trained, frozen, batch)
        actual = [loss, terms["ce"], terms["bce"], terms["dice"], optax.tree.norm(gradient)]
        np.testing.assert_allclose(actual, expected, rtol=1e-3)
        updates, state = optimizer.update(gradient, state, trained)
        trained = optax.apply_updates(trained, updates)
    named = torch_names(trained, checkpoint)
    for key in (key for key in stored if key.startswith("after5/")):
        np.testing.assert_allclose(named[key.removeprefix("after5/")], stored[key], rtol=0, atol=1e-4, err_msg=key)


def test_branches_equal_separate_rows(result, compiled, trees, stored, meta, checkpoint):
    """Logits, loss and gradients of the row with two conversations are those of two rows with one each."""
    separate = make_batch(stored, meta, checkpoint, separate=True)
    (loss, (_, outputs)), gradient = compiled(*trees, separate)
    (packed_loss, (_, packed)), packed_gradient = result
    np.testing.assert_allclose(packed_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3), packed_gradient, gradient)
    labels = make_batch(stored, meta, checkpoint, separate=False)["labels"]
    learned = np.asarray(packed["logits"])[3][labels[3] >= 0]
    alone = [np.asarray(outputs["logits"])[i][separate["labels"][i] >= 0] for i in (3, 4)]
    np.testing.assert_allclose(learned, np.concatenate(alone), atol=2e-5)
