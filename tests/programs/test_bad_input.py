"""A clear answer to every bad input of `gsva`, and nothing lost."""

import io
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.writers import write_torch
from gsva_jax.cli import main
from gsva_jax.config import ASSETS
from tests.command_line import failed, import_words, records, write_picture

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("no_kept_programs")]

PICTURES = {
    "16-bit": lambda path: Image.fromarray(np.full((20, 30), 40000, np.uint16)).save(path, "PNG"),
    "CMYK": lambda path: Image.new("CMYK", (30, 20), (10, 90, 200, 0)).save(path, "JPEG"),
    "palette": lambda path: Image.new("P", (30, 20), 3).save(path, "PNG"),
    "grey": lambda path: Image.new("L", (30, 20), 99).save(path, "PNG"),
    "transparent": lambda path: Image.new("RGBA", (30, 20), (9, 9, 9, 0)).save(path, "PNG"),
    "animation": lambda path: Image.new("P", (30, 20)).save(
        path, "GIF", save_all=True, append_images=[Image.new("P", (30, 20))]
    ),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_any_kind_of_picture(golden_model, tmp_path, kind):
    PICTURES[kind](tmp_path / "picture")
    words = ["segment", tmp_path / "picture", "dog", "--checkpoint", golden_model, "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 0
    assert records(tmp_path / "out")[0]["segmentation"]["size"] == [20, 30]


@pytest.mark.parametrize("width, height, rotated", [(1, 1, False), (20000, 16, False), (30, 20, True)])
def test_any_size_of_picture(golden_model, tmp_path, width, height, rotated):
    exif = Image.Exif()
    if rotated:
        exif[0x0112] = 6
    Image.new("RGB", (width, height), "orange").save(tmp_path / "picture.jpg", exif=exif)
    words = ["segment", tmp_path / "picture.jpg", "dog", "--threshold", "0", "--checkpoint", golden_model]
    assert main(list(map(str, [*words, "--out", tmp_path / "out"]))) == 0
    assert records(tmp_path / "out")[0]["segmentation"]["size"] == ([width, height] if rotated else [height, width])


def test_any_expression(golden_model, picture, tmp_path):
    expressions = ["[SEG] dog [REJ]", "</s> ASSISTANT: cat", "左边的狗 🐶", "ein Hündchen", *["dog"] * 46]
    words = [
        "segment",
        picture,
        *expressions,
        "--threshold",
        "0",
        "--checkpoint",
        golden_model,
        "--out",
        tmp_path / "out",
    ]
    assert main(list(map(str, words))) == 0
    read = [record["expression"] for record in records(tmp_path / "out")]
    assert read == expressions


# --- bad input: one line, and nothing is written


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no picture"),
        (b"", "it is empty (0 bytes)"),
        (b"not a picture at all", "not a format that is read here"),
        ("truncated", "cannot read the picture"),
        ("floats", "its samples are floats"),
    ],
)
def test_bad_pictures(tmp_path, capsys, content, message):
    path = tmp_path / "picture.tif"
    if content == "floats":
        Image.new("F", (3, 3)).save(path)
    elif content == "truncated":
        buffer = io.BytesIO()
        Image.new("RGB", (64, 64), "red").save(buffer, "PNG")
        path.write_bytes(buffer.getvalue()[:60])
    elif content is not None:
        path.write_bytes(content)
    for command in ("segment", "ask"):
        assert message in failed(capsys, command, path, "dog", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_bad_requests(tmp_path, picture, capsys):
    out = tmp_path / "out"
    assert "is empty" in failed(capsys, "segment", picture, "dog", " . ", "--out", out)
    assert "name what to look for" in failed(capsys, "segment", picture, "--out", out)
    assert "question is empty" in failed(capsys, "ask", picture, " ", "--out", out)
    assert "between 0 and 1" in failed(capsys, "segment", picture, "dog", "--threshold", "1.5", "--out", out)
    assert "--max-new must be" in failed(capsys, "ask", picture, "what?", "--max-new", "0", "--out", out)
    (tmp_path / "empty").mkdir()
    assert "there is no picture in the folder" in failed(capsys, "segment", tmp_path / "empty", "dog", "--out", out)
    assert "a file is missing" in failed(capsys, "segment", tmp_path / "no.jsonl", "--out", out)
    (tmp_path / "no.jsonl").write_text("{}")
    assert "has its own expressions" in failed(capsys, "segment", tmp_path / "no.jsonl", "dog", "--out", out)
    assert not out.exists()
    mine = write_picture(tmp_path / "overlay.png")
    assert "would be written over" in failed(capsys, "segment", mine, "dog", "--out", tmp_path)


def test_an_expression_longer_than_the_context(golden_model, picture, tmp_path, capsys):
    words = ["segment", picture, "dog", "very " * 900 + "long", "--checkpoint", golden_model, "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("gsva: error: ") and "number 2 with" in error and "tokens" in error
    assert not (tmp_path / "out" / "masks.json").exists()


def test_an_output_folder_that_cannot_be_written(tmp_path, picture, capsys):
    out = picture / "below a file"
    assert "can't write to the folder" in failed(capsys, "segment", picture, "dog", "--out", out)
    assert "can't write to the folder" in failed(capsys, "ask", picture, "what?", "--out", out)
    words = ["evaluate", "--data", tmp_path, "--dataset", "grefcoco|unc|val", "--protocol", "guided"]
    assert "can't write to the folder" in failed(capsys, *words, "--json", out / "numbers.json")
    assert "can't write scenes to" in failed(
        capsys, "data", "scenes", "--out", out, "--num", 1, "--seed", 0, "--split", "val"
    )


def test_an_unknown_dataset(tmp_path, capsys):
    words = ["evaluate", "--data", tmp_path, "--protocol", "official", "--dataset"]
    error = failed(capsys, *words, "grefcoc|unc|val")
    assert "'grefcoc|unc|val' can't be evaluated" in error and "grefcoco|unc|train/val/testA/testB" in error


def test_bad_model_folders(golden_model, picture, tmp_path, capsys):
    def error(folder: Path) -> str:
        return failed(capsys, "segment", picture, "dog", "--checkpoint", folder, "--out", tmp_path / "out")

    assert "nowhere: no such model folder" in error(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(golden_model, broken)
    (broken / "tokenizer.json").unlink()
    assert "tokenizer.json" in error(broken)
    (file,) = broken.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "truncated" in error(broken)
    file.unlink()
    assert f"shards are missing: {file.name}" in error(broken)
    (broken / "config.json").unlink()
    assert "not a complete model folder" in error(broken)


# --- import and export
def test_bad_checkpoints(gsva_golden, tmp_path, capsys):
    def error(weights: Path) -> str:
        message = failed(capsys, *import_words(gsva_golden, weights, tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        return message

    good = gsva_golden / "gsva-tiny-a.bin"
    assert "a file is missing" in error(tmp_path / "missing.bin")
    (tmp_path / "half.bin").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    assert "half.bin" in error(tmp_path / "half.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    assert "0 bytes" in error(tmp_path / "empty.bin")
    assert "has the llava layout, expected official" in error(gsva_golden / "tiny-llava")
    tensors = open_weights(good)
    rows = [name for name in tensors if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    for name in rows:
        tensors[name] = tensors[name].map(lambda array: array[:423])
    write_torch(tmp_path / "small.bin", tensors)
    assert "423 token rows" in error(tmp_path / "small.bin")
    (tmp_path / "no tokenizer").mkdir()
    shutil.copy(gsva_golden / "tiny-llava" / "config.json", tmp_path / "no tokenizer")
    words = import_words(gsva_golden, good, tmp_path / "out")
    words[words.index(gsva_golden / "tiny-llava")] = tmp_path / "no tokenizer"
    assert "tokenizer.model" in failed(capsys, *words)


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("packed", [True, False])
def test_a_checkpoint_cannot_run_code(gsva_golden, tmp_path, capsys, packed):
    victim, attack = tmp_path / "victim", tmp_path / "attack.bin"
    harmful = pickle.dumps({"base_model.model.x": Attack(victim)}, protocol=2)
    if packed:
        with zipfile.ZipFile(attack, "w") as archive:
            archive.writestr("attack/data.pkl", harmful)
            archive.writestr("attack/version", "3\n")
    else:
        attack.write_bytes(harmful)
    message = failed(capsys, *import_words(gsva_golden, attack, tmp_path / "out"))
    assert "attack.bin" in message
    assert not victim.exists()
    pickle.loads(harmful)  # the attack is a real one
    assert victim.exists()


def test_files_of_an_evaluation_hurt_nothing(scenes, tmp_path, capsys):
    """Neither the data nor each other, nor what is no file; said before a model is loaded."""
    words = ["evaluate", "--data", scenes, "--dataset", "grefcoco|unc|testA", "--protocol", "guided"]
    annotations = scenes / "refer_seg/grefcoco/instances.json"
    before = annotations.read_bytes()
    assert "would replace a file of the data" in failed(capsys, *words, "--json", annotations)
    assert annotations.read_bytes() == before
    assert "are the same file" in failed(capsys, *words, "--json", tmp_path / "x", "--predictions", tmp_path / "x")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in failed(capsys, *words, "--json", tmp_path / "pipe")
    assert "is a folder" in failed(capsys, *words, "--json", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pipe", "scenes"]


@pytest.fixture
def scenes(tmp_path):
    """A copy of the scenes in the package."""
    shutil.copytree(ASSETS / "scenes", tmp_path / "scenes")
    return tmp_path / "scenes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "can't be run"),
        ("import nothing_like_that", "can't be run"),
        ("def get_config():\n    return 3\n", "must return an Experiment, not int"),
    ],
)
def test_a_config_that_is_none(tmp_path, capsys, text, message):
    (tmp_path / "mine.py").write_text(text)
    assert message in failed(capsys, "train", tmp_path / "mine.py")
    (tmp_path / "README.md").write_text("# hello")
    assert "a config is a Python file" in failed(capsys, "train", tmp_path / "README.md")
