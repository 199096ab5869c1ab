"""Reading checkpoints: every container gives what was saved, damage is named, and nothing is run."""

import json
import os
import pickle
import struct
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.readers.files import FileBytes
from grounding_jax.weights.tensors import CheckpointError

pytestmark = pytest.mark.quick


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Tensors of several dtypes; some share a storage or are not contiguous, one is empty."""
    matrix = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "matrix": matrix,
        "transposed": matrix.t(),
        "row of the same storage": matrix[2],
        "every other": matrix[::2, 1::2],
        "bfloat16": torch.linspace(-3, 3, 7).to(torch.bfloat16),
        "float16": torch.ones(2, 3, dtype=torch.float16),
        "parameter": torch.nn.Parameter(torch.full((2, 2), 0.5)),
        "scalar": torch.tensor(3),
        "empty": torch.zeros(0, 5),
        "flags": torch.tensor([True, False]),
    }


def assert_same(read: dict, state: dict[str, torch.Tensor]) -> None:
    assert read.keys() == state.keys()
    for key, tensor in state.items():
        array = read[key].read()
        assert array.shape == read[key].shape == tuple(tensor.shape), key
        assert array.dtype == read[key].dtype, key
        wanted = tensor.detach()
        if tensor.dtype == torch.bfloat16:
            assert array.dtype == ml_dtypes.bfloat16
            array, wanted = array.view(np.int16), wanted.view(torch.int16)
        np.testing.assert_array_equal(array, wanted.numpy(), err_msg=key, strict=True)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "module"])
def test_torch_file(tmp_path, state, zipped, wrapper):
    content = state if wrapper is None else {wrapper: state, "epoch": 3}
    torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    assert_same(open_weights(tmp_path / "x.bin"), state)


def test_rows_of_a_file_tensor_are_its_slices(tmp_path, state):
    torch.save(state, tmp_path / "x.pth")
    read = open_weights(tmp_path / "x.pth")
    for key in ("matrix", "transposed"):
        rows = [row.read() for row in read[key].rows()]
        np.testing.assert_array_equal(np.stack(rows), state[key].numpy())


def test_reading_is_mapped_and_cannot_write(tmp_path, state):
    torch.save(state, tmp_path / "x.bin")
    array = open_weights(tmp_path / "x.bin")["matrix"].read()
    assert not array.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1


def test_files_that_cannot_be_mapped_are_read_in_ranges(tmp_path, state, monkeypatch):
    """Remote files; a local one stands in, with the mapping taken away."""
    monkeypatch.setattr(FileBytes, "_map", None)
    torch.save(state, tmp_path / "x.bin")
    read = open_weights(tmp_path / "x.bin")
    assert_same(read, state)
    np.testing.assert_array_equal(read["transposed"].rows()[1].read(), state["transposed"][1].numpy())


def contiguous(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: tensor.detach().clone().contiguous() for key, tensor in state.items()}


def test_safetensors_file(tmp_path, state):
    safetensors.torch.save_file(contiguous(state), tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert_same(open_weights(tmp_path / "x.safetensors"), state)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_shards_with_an_index(tmp_path, state, suffix):
    write_shards(tmp_path, state, suffix)
    assert_same(open_weights(tmp_path), state)


def write_shards(folder, state, suffix) -> list[str]:
    """Two shards and an index as the transformers library names them."""
    stem = "pytorch_model" if suffix == ".bin" else "model"
    save = torch.save if suffix == ".bin" else safetensors.torch.save_file
    keys = list(state)
    weight_map = {}
    for number, part in enumerate((keys[:4], keys[4:]), start=1):
        name = f"{stem}-{number:05d}-of-00002{suffix}"
        save(contiguous({key: state[key] for key in part}), folder / name)
        weight_map |= dict.fromkeys(part, name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sorted(set(weight_map.values()))


class RunsCode:
    """Unpickling this with pickle would make a folder: the harmless stand-in for anything worse."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
def test_a_pickle_that_runs_code_is_refused_and_did_not_run(tmp_path, state, zipped):
    proof = tmp_path / "the code ran"
    # Between tensors, so that the reader is already at work when it comes.
    content = {**state, "evil": RunsCode(proof), "matrix 2": state["matrix"]}
    torch.save(content, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"refused, it asks for (posix|nt)\.mkdir"):
        open_weights(tmp_path / "x.bin")
    assert not proof.exists()
    pickle.loads(pickle.dumps(RunsCode(proof)))
    assert proof.exists()  # it would have run


def test_a_plain_pickle_that_runs_code_is_refused(tmp_path):
    proof = tmp_path / "the code ran"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / "x.bin").write_bytes(pickle.dumps(RunsCode(proof), protocol=protocol))
        with pytest.raises(CheckpointError, match="refused"):
            open_weights(tmp_path / "x.bin")
    assert not proof.exists()


@pytest.mark.parametrize("name", ["torch._utils._rebuild_parameter_with_state", "builtins.eval", "torch.load"])
def test_only_the_names_of_a_state_dict_are_known(tmp_path, name):
    module, _, function = name.rpartition(".")
    index = b"\x80\x02c" + f"{module}\n{function}\n".encode() + b")R."
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("x/data.pkl", index)
    with pytest.raises(CheckpointError, match=f"asks for {name}"):
        open_weights(tmp_path / "x.bin")


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    matrix = torch.zeros(4, 4)
    torch.save({"a": matrix}, tmp_path / "x.bin")
    with zipfile.ZipFile(tmp_path / "x.bin") as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    shape = pickle.dumps((4, 4), 2)[2:-1].split(b"q")[0]
    larger = pickle.dumps((9, 9), 2)[2:-1].split(b"q")[0]
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        for name, data in records.items():
            archive.writestr(name, data.replace(shape, larger, 1) if name.endswith("data.pkl") else data)
    with pytest.raises(CheckpointError, match="reaches beyond its 16 elements"):
        open_weights(tmp_path / "x.bin")


def test_a_tensor_larger_than_its_file_is_refused(tmp_path):
    """A million times the same element takes four bytes in the file, and four megabytes where it is copied."""
    torch.save({"a": torch.zeros(1).expand(1000, 1000)}, tmp_path / "x.bin")
    with pytest.raises(CheckpointError, match=r"x\.bin: damaged, a tensor can't have these sizes, or is larger"):
        open_weights(tmp_path / "x.bin")


@pytest.mark.parametrize(
    "index",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo of two billion entries
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",  # a bytearray
        b"\x80\x04\x95" + b"\xff" * 7 + b"\x7f.",  # a frame
        b"\x80\x02" + b"\x8b\xff\xff\xff\x7f.",  # a number
    ],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "plain"])
def test_what_a_pickle_asks_for_is_not_reserved(tmp_path, index, zipped):
    if zipped:
        with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
            archive.writestr("x/data.pkl", index)
    else:
        (tmp_path / "x.bin").write_bytes(index)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"x\.bin: damaged, its index can't be read"):
            open_weights(tmp_path / "x.bin")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "header, message",
    [
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "b": {"dtype": "F32", "shape": [1], '
         '"data_offsets": [4, 8]}}', "b should begin at byte 8 of the data, not 4"),
        ('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', "a should begin at byte 0 .* not 4"),
        ('{"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}', "a should begin at byte 0 .* not -8"),
        (
            '{"a": {"dtype": "F32", "shape": ["2"], "data_offsets": [0, 8]}}',
            r"its header, a, at \$\.shape\[0\]: expected `int`, got `str`",
        ),
        ('{"a": {"dtype": "F32", "data_offsets": [0, 8]}}', "header, a, at .*missing required field `shape`"),
        ('{"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}', "a tensor with a size"),
        ('{"a": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}', "a has dtype F8_E4M3"),
        ('{"a": ' + "[" * 100_000, "no safetensors file: its header is not valid JSON"),
        ("{}", "truncated or damaged, needs 10 bytes and has 18"),
    ],
)  # fmt: skip
def test_headers_that_do_not_fit(tmp_path, header, message):
    data = struct.pack("<Q", len(header)) + header.encode() + b"\0" * 8
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(CheckpointError, match=rf"x\.safetensors: .*{message}"):
        open_weights(tmp_path / "x.safetensors")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_torch_file(tmp_path, zipped, share):
    torch.save({"a": torch.zeros(4000)}, tmp_path / "x.bin", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "x.bin").read_bytes()
    (tmp_path / "x.bin").write_bytes(data[: int(share * len(data))])
    with pytest.raises(CheckpointError, match=r"x\.bin: truncated, .*has [0-9,]+"):
        open_weights(tmp_path / "x.bin")


def test_truncated_safetensors(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(1000)}, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    for length in (5, 40, len(data) - 1):
        (tmp_path / "x.safetensors").write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"x\.safetensors: truncated"):
            open_weights(tmp_path / "x.safetensors")


def test_missing_and_strange_files(tmp_path, state):
    with pytest.raises(FileNotFoundError, match=r"a file is missing: .*nothing\.bin"):
        open_weights(tmp_path / "nothing.bin")
    with pytest.raises(FileNotFoundError, match=r"no weights in this folder; looked for model\.safetensors"):
        open_weights(tmp_path)
    for name, content, message in (
        ("empty.bin", b"", "the file is empty"),
        ("pointer.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
        ("page.bin", b"<!DOCTYPE html>", "neither a torch zip file nor an older torch file"),
        ("weights.gguf", b"GGUF", r"expected \.safetensors, \.bin"),
        ("x.safetensors", struct.pack("<Q", 2) + b"{]", "no safetensors file: its header is not valid JSON"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError, match=message):
            open_weights(tmp_path / name)
    torch.save(torch.zeros(3), tmp_path / "tensor.bin")
    with pytest.raises(CheckpointError, match="not a dict of tensors"):
        open_weights(tmp_path / "tensor.bin")
    torch.save({"a": torch.zeros(3), "lr": 0.1}, tmp_path / "mixed.bin")
    with pytest.raises(CheckpointError, match="1 entries are not tensors: lr"):
        open_weights(tmp_path / "mixed.bin")


def test_missing_shard_is_named(tmp_path, state):
    shards = write_shards(tmp_path, state, ".bin")
    (tmp_path / shards[1]).unlink()
    with pytest.raises(FileNotFoundError, match=f"1 of 2 shards are missing: {shards[1]}"):
        open_weights(tmp_path)


def test_shard_without_a_promised_tensor(tmp_path, state):
    shards = write_shards(tmp_path, state, ".bin")
    torch.save({"matrix": state["matrix"]}, tmp_path / shards[0])
    with pytest.raises(CheckpointError, match="the index promises these tensors, the file lacks them: every other"):
        open_weights(tmp_path)
