"""Image features on disk: the losses are those without them, and only what is missing is computed."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from grounding_jax.data import picture_resize
from grounding_jax.files import digests
from grounding_jax.files import pictures as decoding
from grounding_jax.files.regular import PackedFile
from grounding_jax.models import normalize, sam
from grounding_jax.sharding.mesh import MeshShape
from grounding_jax.training.loop import place, train
from grounding_jax.training.options import TrainOptions
from grounding_jax.weights import folder
from gsva_jax.data.features import FeatureFiles, fill
from gsva_jax.data.mixture import Family
from gsva_jax.training.recipe import GsvaRecipe
from gsva_jax.weights import load
from tests.grounding.test_training import log_of
from tests.small_datasets import write_all

OPTIONS = TrainOptions(2, 2, 1e-3, warmup_steps=1, log_every=1, mesh=MeshShape(1, 1, 1))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_all(root, seed=0)
    return GsvaRecipe(
        str(root),
        families=(Family(1, ("refcoco|unc|train", "ade20k|training")),),
        max_targets=3,
        length=384,
        canvas=64,
        lora_dropout=0.0,
        dtype="float32",
        validation="",
    )


def test_losses_are_the_same_with_and_without(recipe, golden_model, tmp_path):
    config, params, tokenizer = load(golden_model)
    plain = recipe.task_for(config, tokenizer)
    cached = dataclasses.replace(recipe, cache_image_features=str(tmp_path / "cache")).task_for(
        config, tokenizer, "golden"
    )
    for name, task in (("plain", plain), ("cached", cached)):
        train(task, OPTIONS, tmp_path / name, task.import_params(params))
    assert "sam_images" not in cached.examples(0)[0]
    plain_log, cached_log = log_of(tmp_path / "plain"), log_of(tmp_path / "cached")
    for one, other in zip(plain_log, cached_log, strict=True):
        for name in ("loss", "ce", "bce", "dice", "grad_norm"):
            assert other[name] == pytest.approx(one[name], rel=1e-5), name
    files = sorted((tmp_path / "cache").rglob("*.npy"))
    pictures = {str(cached.data.features.place(picture)) for picture in cached.data.pictures()}
    (kept,) = {file.parent.parent.name for file in files}
    assert (
        len(files) == len(pictures)
        and kept == f"golden-{digests.of_code(decoding, picture_resize, normalize, sam)}-float32"
    )


def test_weights_are_read_for_a_digest_only_where_features_are_kept(recipe, golden_model, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(folder, "digest", lambda start: read.append(start) or "digest")
    assert recipe.task(golden_model).data.features is None and read == []
    task = dataclasses.replace(recipe, cache_image_features=str(tmp_path)).task(golden_model)
    assert read == [golden_model] and "digest-" in str(task.data.features.place(task.data.pictures()[0]))


def test_a_start_that_is_damaged_is_named(recipe, tmp_path):
    (tmp_path / "config.json").write_text('{"select_layer": "last"}')
    with pytest.raises(ValueError, match=f"^{tmp_path}/config.json"):
        recipe.task(epath.Path(tmp_path))


def test_only_what_is_missing_is_computed(recipe, golden_model, tmp_path, caplog):
    config, params, tokenizer = load(golden_model)
    task = dataclasses.replace(recipe, cache_image_features=str(tmp_path)).task_for(config, tokenizer, "golden")
    from grounding_jax.sharding.mesh import make_mesh

    mesh = make_mesh(OPTIONS.mesh)
    placed = place(task, mesh, 0, task.import_params(params))
    pictures = task.data.pictures()
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(b"no picture")
    count = fill(task.data.features, config, placed, mesh, [*pictures, *pictures, torn, tmp_path / "none.jpg"])
    assert count == len({task.data.features.place(picture) for picture in pictures}) + 1
    assert "torn.jpg gets no features" in caplog.text and "none.jpg" in caplog.text
    with pytest.raises(FileNotFoundError, match="torn.jpg has no features"):
        task.data.features.read(torn)
    gone = task.data.features.place(pictures[0])
    before = np.load(gone)
    gone.unlink()
    assert fill(task.data.features, config, placed, mesh, pictures) == 1
    np.testing.assert_array_equal(np.load(gone), before)


def test_a_packed_picture_has_the_features_of_its_file(tmp_path):
    files, picture = FeatureFiles(str(tmp_path), "golden", "float32"), tmp_path / "1.jpg"
    picture.write_bytes(b"the same bytes")
    files.write(files.place(picture), np.full((2, 2, 3), 0.5, np.float32))
    packed = PackedFile(epath.Path("elsewhere/1.jpg"), b"the same bytes")
    np.testing.assert_array_equal(files.read(packed), np.full((2, 2, 3), 0.5))
    with pytest.raises(FileNotFoundError, match=r"elsewhere/2.jpg has no features"):
        files.read(PackedFile(epath.Path("elsewhere/2.jpg"), b"other bytes"))
