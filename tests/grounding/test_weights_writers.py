"""Writing checkpoints: torch and safetensors read back what was given, no half file stays behind."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from grounding_jax.weights import folder, writers
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.tensors import CheckpointError, LazyTensor, from_array, stack

pytestmark = pytest.mark.quick


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a.transposed": rng.normal(size=(600, 700)).astype(np.float32).T,
        "b.bfloat16": rng.normal(size=(5, 3)).astype(ml_dtypes.bfloat16),
        "c.transposed bfloat16": rng.normal(size=(5, 3)).astype(ml_dtypes.bfloat16).T,
        "d.scalar": np.array(2.5, np.float16),
        "e.empty": np.zeros((0, 4), np.float32),
        "f.convolution": rng.normal(size=(2, 3, 4, 5)).astype(np.float32).transpose(3, 2, 0, 1),
    }


def lazy(arrays: dict[str, np.ndarray]) -> dict[str, LazyTensor]:
    return {key: from_array(array) for key, array in arrays.items()}


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_what_is_not_finite_is_named(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("grounding_jax.weights.tensors._BLOCK", 4)  # several, as in large tensors
    largest = np.full((3, 5), -ml_dtypes.finfo(dtype).max, dtype)
    spoilt = {}
    for place, number in enumerate((np.nan, np.inf, -np.inf)):
        spoilt[f"{number}"] = largest.copy()
        spoilt[f"{number}"].reshape(-1)[7 * place] = number
    arrays = {"largest": largest, **spoilt, "empty": np.zeros((0, 2), dtype), "transposed": spoilt["nan"].T}
    arrays["whole numbers"] = np.full(3, -1, np.int16)
    assert writers.write_safetensors(tmp_path, lazy(arrays)) == [*spoilt, "transposed"]
    parts = stack([from_array(spoilt["nan"]), from_array(spoilt["nan"])])
    assert writers.write_safetensors(tmp_path, {"stacked": parts}) == ["stacked"]


@pytest.mark.parametrize("mapped", [False, True])
def test_torch_reads_what_was_written(tmp_path, arrays, mapped):
    writers.write_torch(tmp_path / "x.bin", lazy(arrays))
    read = torch.load(tmp_path / "x.bin", weights_only=True, mmap=mapped)
    assert list(read) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(as_numpy(read[key]), array, err_msg=key, strict=True)
        assert read[key].is_contiguous()


def test_storages_are_aligned_for_mapping(tmp_path, arrays):
    writers.write_torch(tmp_path / "x.bin", lazy(arrays))
    for tensor in open_weights(tmp_path / "x.bin").values():
        assert tensor.offset % 64 == 0


def test_records_beyond_four_gigabytes_have_the_long_header(tmp_path, arrays, monkeypatch):
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 1000)
    writers.write_torch(tmp_path / "x.bin", lazy(arrays))
    read = torch.load(tmp_path / "x.bin", weights_only=True)
    np.testing.assert_array_equal(read["a.transposed"].numpy(), arrays["a.transposed"])
    assert open_weights(tmp_path / "x.bin")["a.transposed"].offset % 64 == 0


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_shards(tmp_path, arrays, suffix, monkeypatch):
    monkeypatch.setattr(writers, "MAX_SHARD_BYTES", 500)
    write = writers.write_torch_shards if suffix == ".bin" else writers.write_safetensors
    calls = []
    write(tmp_path, lazy(arrays), lambda done, total: calls.append((done, total)))
    assert len(list(tmp_path.glob(f"*-of-00003{suffix}"))) == 3
    (index,) = tmp_path.glob("*.index.json")
    assert json.loads(index.read_text())["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())
    assert calls[-1][0] == calls[-1][1] == sum(a.nbytes for a in arrays.values())
    read = open_weights(tmp_path)
    for key, array in arrays.items():
        np.testing.assert_array_equal(read[key].read(), array, strict=True)


def test_safetensors_library_reads_what_was_written(tmp_path, arrays):
    writers.write_safetensors(tmp_path, lazy(arrays))
    read = safetensors.numpy.load_file(tmp_path / "model-00001-of-00001.safetensors")
    for key, array in arrays.items():
        np.testing.assert_array_equal(read[key], array, strict=True)


def test_a_stack_is_written_part_by_part(tmp_path):
    alive = []

    def layer(i: int) -> LazyTensor:
        def read() -> np.ndarray:
            alive.append(i)
            return np.full((3, 2), i, np.float32)

        return LazyTensor((3, 2), np.dtype(np.float32), read)

    stacked = stack([layer(i) for i in range(4)])
    chunks = stacked.chunks()
    next(chunks)
    assert alive == [0]  # the other layers are not read yet
    writers.write_torch(tmp_path / "x.bin", {"stack": stacked})
    read = torch.load(tmp_path / "x.bin", weights_only=True)["stack"].numpy()
    np.testing.assert_array_equal(read, np.arange(4, dtype=np.float32)[:, None, None] * np.ones((1, 3, 2)))


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_no_half_file_stays_behind(tmp_path, arrays, suffix):
    def fail() -> np.ndarray:
        raise OSError("the disk went away")

    tensors = lazy(arrays) | {"z": LazyTensor((2,), np.dtype(np.float32), fail)}
    write = writers.write_torch_shards if suffix == ".bin" else writers.write_safetensors
    with pytest.raises(OSError, match="went away"):
        write(tmp_path, tensors)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_that_gives_too_little_is_an_error(tmp_path):
    short = LazyTensor((4,), np.dtype(np.float32), lambda: np.zeros(3, np.float32))
    with pytest.raises(CheckpointError, match="12 bytes were read where 16 were announced"):
        writers.write_torch(tmp_path / "x.bin", {"short": short})


def test_model_folder_round_trip(tmp_path, arrays):
    leaves = {key.replace(".", "/"): tensor for key, tensor in lazy(arrays).items()}
    folder.save(tmp_path / "model", leaves, config="{}")
    params = folder.load(tmp_path / "model")
    np.testing.assert_array_equal(params["a"]["transposed"], arrays["a.transposed"], strict=True)
    assert params["b"]["bfloat16"].dtype == ml_dtypes.bfloat16
    assert not params["a"]["transposed"].flags.owndata  # a view of the mapped file
    cast = folder.load(tmp_path / "model", np.float32)
    np.testing.assert_array_equal(cast["b"]["bfloat16"], arrays["b.bfloat16"].astype(np.float32), strict=True)
    folder.save(tmp_path / "again", folder.from_params(params), config="{}")
    again = (tmp_path / "again" / "model-00001-of-00001.safetensors").read_bytes()
    assert len(again) == (tmp_path / "model" / "model-00001-of-00001.safetensors").stat().st_size


def test_model_folder_is_not_overwritten_and_must_be_complete(tmp_path, arrays):
    leaves = lazy(arrays)
    folder.save(tmp_path / "model", leaves, config="{}")
    with pytest.raises(CheckpointError, match="already holds a model"):
        folder.save(tmp_path / "model", leaves, config="{}")
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete model folder"):
        folder.load(tmp_path / "model")
    folder.save(tmp_path / "model", leaves, config="{}")  # an interrupted write may be repeated
    with pytest.raises(FileNotFoundError, match="no such model folder"):
        folder.load(tmp_path / "nowhere")
