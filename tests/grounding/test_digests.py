"""What is kept for later is never taken for something else's: digests of files, records, weights and code."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import grounding_jax
import gsva_jax
from grounding_jax.evaluation.identity import engine_digest, identity_of, records_digest
from grounding_jax.files import digests
from grounding_jax.files.regular import PackedFile
from grounding_jax.models import llama
from grounding_jax.weights import folder
from tests.small_gella import small_tokenizer

pytestmark = pytest.mark.quick


@dataclasses.dataclass(frozen=True)
class Record:
    image: epath.Path | PackedFile
    targets: tuple


def model(params: dict, **changes) -> types.SimpleNamespace:
    parts = dict(config=types.SimpleNamespace(to_json=lambda: "{}"), dtype=np.float32, tokenizer=small_tokenizer())
    return types.SimpleNamespace(**{**parts, **changes}, params=params)


def test_any_number_of_the_weights_counts():
    """Also one in the last row of a leaf, or two that were exchanged."""
    weights = np.random.default_rng(0).normal(size=(3, 40, 5)).astype(np.float32)
    last, exchanged = weights.copy(), weights.copy()
    last[-1, -1, -1] = np.nextafter(last[-1, -1, -1], 1)
    exchanged[1, 7, 2], exchanged[1, 8, 2] = weights[1, 8, 2], weights[1, 7, 2]
    both = [model({"x": array, "b": jnp.ones(4, jnp.bfloat16)}) for array in (weights, last, exchanged)]
    assert engine_digest(both[0]) == engine_digest(model(both[0].params))
    others = [*both[1:], model({"y": weights, "b": jnp.ones(4, jnp.bfloat16)}), model(both[0].params, dtype="bfloat16")]
    other_words = dataclasses.replace(small_tokenizer(), rej=7)
    others += [model(both[0].params, tokenizer=other_words)]
    assert len({engine_digest(one) for one in (both[0], *others)}) == 6


def test_a_padded_vocabulary_is_the_same_model():
    rng = np.random.default_rng(1)
    params = {"embed": {"embedding": rng.normal(size=(13, 8))}, "head": {"kernel": rng.normal(size=(8, 13))}}
    params = jax.tree.map(np.float32, params)
    assert engine_digest(model(params)) == engine_digest(model(llama.resize_vocabulary(params, 16)))


def test_records_count_with_what_is_in_their_files(tmp_path):
    picture = epath.Path(tmp_path / "1.jpg")
    picture.write_bytes(b"one")
    record = Record(picture, ([1.0, 2.0], {"counts": b"ab", "size": [2, 2]}))
    first = records_digest([record, record])
    assert first == records_digest([record, record]) != records_digest([record])
    masks = np.zeros((1, 2, 2), bool)
    given = [records_digest([record, record], lambda _, masks=m: masks) for m in (masks, ~masks)]
    moved = dataclasses.replace(record, targets=([1.0, 2.5], *record.targets[1:]))
    packed = Record(PackedFile(picture, b"one"), record.targets)
    assert records_digest([packed, packed]) == first
    picture.write_bytes(b"two")  # as long, and written in the same moment
    assert len({first, *given, records_digest([record, moved]), records_digest([record, record])}) == 5
    picture.unlink()
    with pytest.raises(FileNotFoundError, match="1.jpg"):
        records_digest([record])
    with pytest.raises(TypeError, match="object has no digest"):
        digests.of_value([object()])


def test_a_folder_counts_with_all_files_below(tmp_path):
    folder, file = epath.Path(tmp_path), epath.Path(tmp_path / "a" / "b" / "c.bin")
    file.parent.mkdir(parents=True)
    file.write_bytes(b"one")
    before = digests.of_file(folder)
    file.write_bytes(b"two")
    assert digests.of_file(folder) != before
    file.write_bytes(b"one")
    assert digests.of_file(folder) == before
    file.rename(file.parent / "d.bin")
    assert digests.of_file(folder) != before


def test_a_model_folder_counts_with_every_byte(tmp_path):
    """Also far from the ends of a large file."""
    weights = bytearray(5_000_000)
    (tmp_path / "model.safetensors").write_bytes(weights)
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    before = folder.digest(tmp_path)
    weights[2_500_000] = 1
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert folder.digest(tmp_path) != before


def test_code_counts(tmp_path):
    (tmp_path / "__init__.py").write_text("")
    (tmp_path / "arithmetic.py").write_text("x = 1 + 1")
    package = types.ModuleType("package")
    package.__file__, package.__path__ = str(tmp_path / "__init__.py"), [str(tmp_path)]
    before = digests.of_code(package)
    (tmp_path / "arithmetic.py").write_text("x = 1 + 2")
    digests.of_code.cache_clear()
    assert digests.of_code(package) != before
    identity = identity_of(model({"x": np.ones((2, 2), np.float32)}), gsva_jax, [])
    assert identity["code"].startswith(digests.of_code(grounding_jax, gsva_jax))
