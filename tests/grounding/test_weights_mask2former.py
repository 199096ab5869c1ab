"""Mask2Former's checkpoints: every name in both layouts, from one to the other, and detectron2's pickles."""

import io
import json
import os
import pickle

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util
from safetensors.numpy import load_file

from grounding_jax.models import mask2former as model
from grounding_jax.models.mask2former import Mask2FormerConfig
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tables import mask2former
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, from_array
from grounding_jax.weights.writers import write_safetensors

ORIGINAL, HUB = mask2former.original_with_swin(), mask2former.transformers_with_swin()
GOLDENS = {"m2f_d2_entity": ORIGINAL, "m2f_hf": HUB}


@pytest.fixture(scope="module")
def entity(golden):
    """The folder of the model in detectron2's layout."""
    return golden / "gella" / "m2f_d2_entity"


def assert_same(found: dict[str, LazyTensor], wanted: dict[str, LazyTensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(found[key].read(), tensor.read(), err_msg=key, strict=True)


@pytest.mark.parametrize("name", GOLDENS)
def test_round_trip(golden, name):
    """Bit for bit, but for buffers and the weights of the loss."""
    table, stored = GOLDENS[name], open_weights(golden / "gella" / name)
    back = table.to_torch(table.to_ours(stored, name), name)
    assert_same(back, {key: tensor for key, tensor in stored.items() if not table.is_ignored(key)})
    ignored = {key.rpartition(".")[2] for key in stored.keys() - back.keys()}
    assert ignored <= {"empty_weight", "relative_position_index"}


@pytest.mark.parametrize("name", GOLDENS)
def test_sizes_from_shapes(golden, name):
    facts = json.loads((golden / "gella" / name / "config.json").read_text())
    leaves = GOLDENS[name].to_ours(open_weights(golden / "gella" / name), name)
    of_hub = name == "m2f_hf"
    assert mask2former.config(leaves, heads=4) == Mask2FormerConfig(
        classes=len(facts["id2label"]) if of_hub else facts["num_classes"],
        channels=(8, 16, 32, 64),
        queries=facts["num_queries"],
        width=facts["hidden_dim"],
        heads=facts["num_attention_heads" if of_hub else "nheads"],
        encoder_layers=facts["encoder_layers" if of_hub else "enc_layers"],
        encoder_hidden=facts["encoder_feedforward_dim" if of_hub else "enc_ffn"],
        decoder_layers=facts["decoder_layers" if of_hub else "dec_layers"] - 1,
        decoder_hidden=facts["dim_feedforward" if of_hub else "ffn"],
    )


def test_from_detectron2_to_hugging_face(golden, entity, tmp_path):
    """Through our tree: the names that it should give, and in transformers the numbers of the original."""
    tensors = HUB.to_torch(ORIGINAL.to_ours(open_weights(entity), "original"), "hub")
    wanted = json.loads((entity / "name_map_to_hf.json").read_text())["hf_keys"]
    assert tensors.keys() == set(wanted) - {"criterion.empty_weight"}

    write_safetensors(tmp_path, {key: tensor.astype(np.float32) for key, tensor in tensors.items()})
    facts = json.loads((golden / "gella" / "m2f_hf" / "config.json").read_text())
    facts |= dict(num_queries=12, decoder_layers=6, id2label={"0": "entity"}, label2id={"entity": 0})
    (tmp_path / "config.json").write_text(json.dumps(facts))
    theirs = transformers.Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path).eval()
    images = load_file(entity / "inputs.safetensors")["case0.pixel_values"].astype(np.float32)
    with torch.no_grad():
        found = theirs(torch.from_numpy(images))
    outputs = load_file(entity / "outputs.safetensors")
    np.testing.assert_allclose(found.class_queries_logits, outputs["case0.layer5.class_logits"], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(found.masks_queries_logits, outputs["case0.layer5.mask_logits"], atol=5e-4)


def test_older_names(entity):
    """`static_query`, and a pixel decoder that has no name of its own."""
    stored = open_weights(entity)
    older = {
        key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head.").replace("query_feat", "static_query"): tensor
        for key, tensor in stored.items()
    }
    assert len(older.keys() & stored.keys()) < len(stored)
    assert_same(ORIGINAL.to_ours(older, "older"), ORIGINAL.to_ours(stored, "newer"))


def test_every_name_at_full_size():
    config = Mask2FormerConfig.coco_panoptic_swin_l()
    params = jax.eval_shape(lambda: model.init(config, jax.random.key(0)))
    nothing = np.zeros((), np.float32)
    leaves = {
        path: LazyTensor(leaf.shape, nothing.dtype, lambda shape=leaf.shape: np.broadcast_to(nothing, shape))
        for path, leaf in traverse_util.flatten_dict(params, sep="/").items()
    }
    backbone = transformers.SwinConfig(embed_dim=192, depths=[1] * 4, num_heads=[1] * 4,
                                       out_features=[f"stage{i}" for i in (1, 2, 3, 4)])  # fmt: skip
    with torch.device("meta"):
        theirs = transformers.Mask2FormerForUniversalSegmentation(
            transformers.Mask2FormerConfig(backbone_config=backbone, num_queries=200, num_labels=133)
        )
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in theirs.state_dict().items()
        if not key.startswith(("model.pixel_level_module.encoder.", "criterion."))
    }
    table = mask2former.transformers()
    assert {key: tensor.shape for key, tensor in table.to_torch(leaves, "ours").items()} == shapes
    assert mask2former.config(leaves) == config


def arrays(entity) -> dict[str, np.ndarray]:
    """As detectron2 has them: arrays, some not in C order, and a counter without axes."""
    state = load_file(entity / "model.safetensors")
    state["sem_seg_head.predictor.query_feat.weight"] = np.asfortranarray(
        state["sem_seg_head.predictor.query_feat.weight"]
    )
    return state | {"backbone.counter": np.array(7)}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_pickle_of_detectron2(entity, tmp_path, protocol):
    state = arrays(entity)
    content = {"model": state, "__author__": "third_party", "matching_heuristics": True}
    (tmp_path / "model_final.pkl").write_bytes(pickle.dumps(content, protocol))
    assert_same(open_weights(tmp_path / "model_final.pkl"), {key: from_array(array) for key, array in state.items()})


def test_pickle_written_before_numpy_2(entity, tmp_path):
    data = pickle.dumps({"model": arrays(entity)}, 2).replace(b"cnumpy._core.", b"cnumpy.core.")
    (tmp_path / "x.pkl").write_bytes(data)
    assert len(open_weights(tmp_path / "x.pkl")) == len(arrays(entity))


def test_state_of_a_trainer(entity, tmp_path):
    """CropFormer's files: a torch dict with the optimizer beside the model."""
    state = {key: torch.from_numpy(array) for key, array in load_file(entity / "model.safetensors").items()}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    torch.save(
        {"model": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}, "iteration": 4}, tmp_path / "x.pth"
    )
    assert_same(open_weights(tmp_path / "x.pth"), open_weights(entity))


class Calls:
    """Unpickling this with pickle would call something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_code_is_refused_and_did_not_run(entity, tmp_path):
    proof = tmp_path / "the code ran"
    array = np.zeros(3, np.float32)
    for evil in (
        Calls(os.mkdir, str(proof)),
        Calls(np.load, io.BytesIO()),
        Calls(np.memmap, str(proof), "u1", "w+", 0, (3,)),
        Calls(np.fromfile, str(proof)),
        Calls(getattr, np.zeros(1), "tofile"),
    ):
        # Between arrays, so that the reader is already at work when it comes.
        content = {"model": {"a": array, "b": evil, "c": array}, "matching_heuristics": True}
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(CheckpointError, match=r"x\.pkl: refused, it asks for "):
            open_weights(tmp_path / "x.pkl")
    assert not proof.exists()


def test_arrays_that_are_not_plain_numbers_are_refused(tmp_path):
    good = pickle.dumps({"model": {"a": np.zeros((2, 3), np.float32)}}, 3)
    shape = pickle.BININT1 + b"\x02" + pickle.BININT1 + b"\x03" + pickle.TUPLE2
    assert good.count(shape) == 1
    huge = shape.replace(pickle.BININT1 + b"\x02", pickle.BININT + b"\xff\xff\xff\x7f")
    for data, message in (
        (pickle.dumps({"model": {"a": np.array([{}, None], object)}}, 4), "an array of 'O8'"),
        (pickle.dumps({"model": {"a": np.zeros(2, ">f4")}}, 4), "byte order '>'"),
        (pickle.dumps({"model": {"a": np.zeros(2, [("x", "f4")])}}, 4), "an array of 'V4'"),
        (good.replace(shape, huge), r"an array \(2147483647, 3\) of float32 without its 25,769,803,764 bytes"),
        (good[: len(good) // 2], "its index can't be read"),
        (pickle.dumps({"model": {"a": np.zeros(2)}, "x": 3} | {"model": {"a": 3}}), "1 entries are not tensors: a"),
        (pickle.dumps([np.zeros(2)]), "a plain pickle, not a checkpoint"),
    ):
        (tmp_path / "x.pkl").write_bytes(data)
        with pytest.raises(CheckpointError, match=message):
            open_weights(tmp_path / "x.pkl")
