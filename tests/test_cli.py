"""`gsva` from its words to its files, with the golden weights; and a clear answer to every bad input."""

import io
import json
import pickle
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from grounding_jax.data.masks import decode_mask
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.writers import write_torch
from gsva_jax import demo
from gsva_jax.cli import COMMANDS, _parse, main, terminal
from gsva_jax.weights import open_official


@pytest.fixture(scope="module")
def golden(golden) -> Path:
    return golden / "gsva"


@pytest.fixture(scope="module")
def checkpoint(golden, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "ckpt"
    open_official(golden / "gsva-tiny-a.bin", golden / "tiny-llava", sizes=golden / "config.json").save(folder)
    return folder


@pytest.fixture(autouse=True)
def no_kept_programs(monkeypatch):
    """Tests leave no compiled programs on the machine."""
    monkeypatch.setattr(terminal, "keep_compiled_programs", lambda: None)


@pytest.fixture
def picture(tmp_path) -> Path:
    """A small photograph-like picture, 60 x 80."""
    return write_picture(tmp_path / "picture.png")


def write_picture(path: Path, size: tuple[int, int] = (60, 80), **options) -> Path:
    rows, columns = np.indices(size)
    pixels = np.stack([rows * 3 % 256, columns * 2 % 256, (rows + columns) % 256], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def records(folder: Path) -> list[dict]:
    return json.loads((folder / "masks.json").read_text())


def failed(capsys, *words: object, code: int = 2) -> str:
    """Runs a command that must fail with one line, and gives that line."""
    assert main([str(word) for word in words]) == code
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("gsva: error: "), error
    return error[0].removeprefix("gsva: error: ")


# --- segment and ask


def test_segment_writes_an_overlay_and_masks_and_prints_the_answer(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "results"
    words = ["segment", picture, "Top guy", "a giraffe", "--checkpoint", checkpoint, "--out", out]
    assert main(list(map(str, words))) == 0
    first, second = records(out)
    assert (first["expression"], second["expression"]) == ("Top guy", "a giraffe")
    for record in (first, second):
        mask = decode_mask(record["segmentation"], (60, 80))
        assert mask.sum() == record["area"] and 0 <= record["score"] <= 1
        assert not (record["rejected"] and mask.any())
        assert record["rejected"] == (record["score"] < 0.5)
    marks = ["[REJ]" if record["rejected"] else "[SEG]" for record in (first, second)]
    printed = capsys.readouterr().out
    assert printed.startswith(f"Sure, they are Top guy:{marks[0]}, a giraffe:{marks[1]}.\n")
    assert str(out / "overlay.png") in printed
    with Image.open(out / "overlay.png") as overlay:
        assert overlay.width == 800 and overlay.height > 600  # ten times the picture, and the legend


@pytest.mark.parametrize("threshold, rejected", [("0", 0), ("1", 2)])
def test_threshold(checkpoint, picture, tmp_path, threshold, rejected):
    words = ["segment", picture, "--threshold", threshold, "--checkpoint", checkpoint, "--out", tmp_path, "dog", "cat"]
    assert main(list(map(str, words))) == 0
    assert sum(record["rejected"] for record in records(tmp_path)) == rejected


def test_a_folder_loses_only_the_pictures_that_are_bad(checkpoint, tmp_path, capsys):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for name in ("a.png", "A.jpg", "c.webp"):
        write_picture(pictures / name)
    (pictures / "b.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture either")
    assert main(["segment", str(pictures), "dog", "--checkpoint", str(checkpoint), "--out", str(out)]) == 1
    assert {path.name for path in out.iterdir()} == {"A", "a-2", "c"}
    assert all(len(records(folder)) == 1 for folder in out.iterdir())
    printed = capsys.readouterr()
    assert "3 of 4 pictures done" in printed.out
    assert "left out 1 other files" in printed.err
    errors = [line for line in printed.err.splitlines() if line.startswith("gsva: error: ")]
    assert len(errors) == 1 and "b.png" in errors[0] and "not a format that Pillow knows" in errors[0]


def test_a_jsonl_file_has_its_own_expressions(checkpoint, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    for name in ("x.png", "sub/x.png"):
        write_picture(tmp_path / name)
    lines = [
        {"image": "x.png", "expressions": ["dog", "cat"]},
        {"image": "sub/x.png", "expressions": ["собака"]},
        {"image": "x.png", "expressions": [" . "]},
        {"image": "gone.png", "expressions": ["dog"]},
    ]
    wishes = tmp_path / "wishes.jsonl"
    wishes.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    assert main(["segment", str(wishes), "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")]) == 1
    assert [record["expression"] for record in records(tmp_path / "out" / "x")] == ["dog", "cat"]
    assert [record["expression"] for record in records(tmp_path / "out" / "x-2")] == ["собака"]
    printed = capsys.readouterr()
    assert "2 of 4 pictures done" in printed.out
    assert "is empty" in printed.err and "there is no picture" in printed.err


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty: it needs lines like"),
        ('{"image": "x.png", "expressions": ["dog"]}\n{"image": "x.png"', "line 2: should be like"),
        ('{"image": "x.png"}', "line 1: should be like"),
        ('["x.png", "dog"]', "line 1: should be like"),
        ('{"image": "x.png", "expressions": "dog"}', "expressions a list of texts"),
        ('{"image": "x.png", "expressions": []}', "expressions a list of texts"),
    ],
)
def test_a_damaged_jsonl_file(tmp_path, capsys, text, message):
    (tmp_path / "wishes.jsonl").write_text(text)
    assert message in failed(capsys, "segment", tmp_path / "wishes.jsonl", "--out", tmp_path / "out")


def test_ask_prints_the_answer_and_draws_what_has_masks(checkpoint, picture, tmp_path, capsys):
    options = ["--max-new", "24", "--temperature", "2", "--seed", "3", "--out", str(tmp_path / "out")]
    assert main(["ask", str(picture), "What is this?", "--checkpoint", str(checkpoint), *options]) == 0
    printed = capsys.readouterr().out
    marks = printed.splitlines()[0].count("[SEG]") + printed.splitlines()[0].count("[REJ]")
    assert (tmp_path / "out" / "masks.json").exists() == (marks > 0)
    assert len(records(tmp_path / "out")) == marks if marks else "no masks" in printed


def test_demo(checkpoint, tmp_path, capsys):
    demo.demo(str(tmp_path / "demo"), str(checkpoint))
    printed = capsys.readouterr().out
    for name, (picture, expressions) in demo.PICTURES.items():
        assert len(records(tmp_path / "demo" / name)) == len(expressions)
        assert picture.name in printed and str(tmp_path / "demo" / name / "overlay.png") in printed


# --- pictures and expressions of every kind

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
def test_any_kind_of_picture(checkpoint, tmp_path, kind):
    PICTURES[kind](tmp_path / "picture")
    words = ["segment", tmp_path / "picture", "dog", "--checkpoint", checkpoint, "--out", tmp_path / "out"]
    assert main(list(map(str, words))) == 0
    assert records(tmp_path / "out")[0]["segmentation"]["size"] == [20, 30]


@pytest.mark.parametrize("width, height, rotated", [(1, 1, False), (20000, 16, False), (30, 20, True)])
def test_any_size_of_picture(checkpoint, tmp_path, width, height, rotated):
    exif = Image.Exif()
    if rotated:
        exif[0x0112] = 6
    Image.new("RGB", (width, height), "orange").save(tmp_path / "picture.jpg", exif=exif)
    words = ["segment", tmp_path / "picture.jpg", "dog", "--threshold", "0", "--checkpoint", checkpoint]
    assert main(list(map(str, [*words, "--out", tmp_path / "out"]))) == 0
    assert records(tmp_path / "out")[0]["segmentation"]["size"] == ([width, height] if rotated else [height, width])


def test_any_expression(checkpoint, picture, tmp_path):
    expressions = ["[SEG] dog [REJ]", "</s> ASSISTANT: cat", "左边的狗 🐶", "ein Hündchen", *["dog"] * 46]
    words = [
        "segment",
        picture,
        *expressions,
        "--threshold",
        "0",
        "--checkpoint",
        checkpoint,
        "--out",
        tmp_path / "out",
    ]
    assert main(list(map(str, words))) == 0
    read = [record["expression"] for record in records(tmp_path / "out")]
    assert read == ["SEG dog REJ", "/s ASSISTANT cat", *expressions[2:]]


# --- bad input: one line, and nothing is written


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "there is no picture"),
        (b"", "it is empty (0 bytes)"),
        (b"not a picture at all", "not a format that Pillow knows"),
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
    assert "there is no file" in failed(capsys, "segment", tmp_path / "no.jsonl", "--out", out)
    (tmp_path / "no.jsonl").write_text("{}")
    assert "has its own expressions" in failed(capsys, "segment", tmp_path / "no.jsonl", "dog", "--out", out)
    assert not out.exists()
    mine = write_picture(tmp_path / "overlay.png")
    assert "would replace the picture" in failed(capsys, "segment", mine, "dog", "--out", tmp_path)


def test_an_expression_longer_than_the_context(checkpoint, picture, tmp_path, capsys):
    words = ["segment", picture, "dog", "very " * 900 + "long", "--checkpoint", checkpoint, "--out", tmp_path / "out"]
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
    assert "unknown dataset 'grefcoc|unc|val'" in error and "grefcoco|unc|train/val/testA/testB" in error


def test_bad_model_folders(checkpoint, picture, tmp_path, capsys):
    def error(folder: Path) -> str:
        return failed(capsys, "segment", picture, "dog", "--checkpoint", folder, "--out", tmp_path / "out")

    assert "nowhere: no such model folder" in error(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
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


def import_words(golden: Path, weights: Path, out: Path, form: str = "official") -> list[object]:
    options = ["--language-model", golden / "tiny-llava", "--sizes", golden / "config.json", "--out", out]
    return ["import", "--format", form, weights, *options]


def assert_same(left: Path, right: Path) -> None:
    a, b = open_weights(left), open_weights(right)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name].read(), b[name].read(), strict=True)


def test_what_was_imported_comes_out_the_same(golden, tmp_path, capsys):
    words = import_words(golden, golden / "gsva-tiny-a.bin", tmp_path / "ckpt")
    assert main(list(map(str, words))) == 0
    assert "template: llava_v1" in capsys.readouterr().out
    out = tmp_path / "out.bin"
    assert main(["export", str(tmp_path / "ckpt"), "--format", "official", "--out", str(out)]) == 0
    assert_same(golden / "gsva-tiny-a.bin", out)
    assert "already exists" in failed(capsys, "export", tmp_path / "ckpt", "--format", "official", "--out", out)
    lisa, again = tmp_path / "lisa", tmp_path / "again"
    assert main(["export", str(tmp_path / "ckpt"), "--format", "lisa", "--out", str(lisa)]) == 0
    words = [*import_words(golden, lisa, again, "lisa"), "--vision-tower", golden / "tiny-clip"]
    assert main(list(map(str, words))) == 0
    assert (again / "config.json").exists()


def test_import_of_the_parts_and_of_a_difference(golden, tmp_path, capsys):
    parts = ["--vision-tower", golden / "tiny-clip", "--sam", golden / "tiny_sam_vit_b.pth"]
    words = ["import", "--format", "llava", "--language-model", golden / "tiny-llava", *parts]
    words += ["--sizes", golden / "config.json", "--seed", 1, "--out", tmp_path / "new"]
    assert main(list(map(str, words))) == 0
    assert "fresh: 4 token rows" in capsys.readouterr().out
    shutil.copytree(golden / "tiny-llava", tmp_path / "base")
    tensors = {name: tensor for name, tensor in open_weights(golden / "tiny-llava").items() if "projector" not in name}
    for file in (*(tmp_path / "base").glob("*.bin"), *(tmp_path / "base").glob("*.safetensors")):
        file.unlink()
    write_torch(tmp_path / "base" / "pytorch_model.bin", tensors)
    words = ["import", "--format", "llava-delta", tmp_path / "base", golden / "tiny-llava", "--out"]
    assert main(list(map(str, [*words, tmp_path / "llava"]))) == 0
    doubled, delta = open_weights(tmp_path / "llava"), open_weights(golden / "tiny-llava")
    np.testing.assert_array_equal(doubled["model.norm.weight"].read(), 2 * delta["model.norm.weight"].read())
    words = [*words, tmp_path / "new from a difference", *parts, "--sizes", golden / "config.json"]
    assert main(list(map(str, words))) == 0
    assert (tmp_path / "new from a difference" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    "words, message",
    [
        ("official --out x", "takes WEIGHTS; there are 0"),
        ("official a b --out x", "takes WEIGHTS; there are 2"),
        ("official a --out x", "needs --language-model"),
        ("official a --language-model b --sam c --out x", "has no use for --sam"),
        ("lisa a --language-model b --out x", "needs --vision-tower"),
        ("llava a --language-model b --vision-tower c --sam d --out x", "no file or folder before the options"),
        ("llava-delta a --out x", "takes BASE DELTA; there are 1"),
        ("llava-delta a b --sam c --out x", "together, or neither"),
        ("llava-delta a b --language-model c --out x", "has no use for --language-model"),
    ],
)
def test_import_says_what_a_format_takes(capsys, words, message):
    assert message in failed(capsys, "import", "--format", *words.split())


def test_bad_checkpoints(golden, tmp_path, capsys):
    def error(weights: Path) -> str:
        message = failed(capsys, *import_words(golden, weights, tmp_path / "out"))
        assert not (tmp_path / "out").exists()
        return message

    good = golden / "gsva-tiny-a.bin"
    assert "no such file" in error(tmp_path / "missing.bin")
    (tmp_path / "half.bin").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    assert "half.bin" in error(tmp_path / "half.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    assert "0 bytes" in error(tmp_path / "empty.bin")
    assert "has the llava layout, expected official" in error(golden / "tiny-llava")
    tensors = open_weights(good)
    rows = [name for name in tensors if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    for name in rows:
        tensors[name] = tensors[name].map(lambda array: array[:423])
    write_torch(tmp_path / "small.bin", tensors)
    assert "423 token rows" in error(tmp_path / "small.bin")
    (tmp_path / "no tokenizer").mkdir()
    shutil.copy(golden / "tiny-llava" / "config.json", tmp_path / "no tokenizer")
    words = import_words(golden, good, tmp_path / "out")
    words[words.index(golden / "tiny-llava")] = tmp_path / "no tokenizer"
    assert "tokenizer.model" in failed(capsys, *words)


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@pytest.mark.parametrize("packed", [True, False])
def test_a_checkpoint_cannot_run_code(golden, tmp_path, capsys, packed):
    victim, attack = tmp_path / "victim", tmp_path / "attack.bin"
    harmful = pickle.dumps({"base_model.model.x": Attack(victim)}, protocol=2)
    if packed:
        with zipfile.ZipFile(attack, "w") as archive:
            archive.writestr("attack/data.pkl", harmful)
            archive.writestr("attack/version", "3\n")
    else:
        attack.write_bytes(harmful)
    message = failed(capsys, *import_words(golden, attack, tmp_path / "out"))
    assert "attack.bin" in message
    assert not victim.exists()
    pickle.loads(harmful)  # the attack is a real one
    assert victim.exists()


# --- evaluate, train, data


def test_evaluate_gives_the_official_numbers_in_one_flat_object(checkpoint, golden, tmp_path, capsys):
    file = tmp_path / "new" / "numbers.json"
    words = ["evaluate", "--checkpoint", checkpoint, "--data", golden / "data", "--dataset", "grefcoco|unc|val"]
    assert main(list(map(str, [*words, "--protocol", "official", "--json", file]))) == 0
    report = json.loads(file.read_text())
    assert (report["dataset"], report["protocol"]) == ("grefcoco|unc|val", "official")
    assert all(not isinstance(value, dict | list) for value in report.values())
    wanted = json.loads((golden / "meta.json").read_text())["metrics"]["grefcoco_val"]
    assert {name: report[name] for name in wanted} == pytest.approx(wanted, abs=2e-3)
    assert f"{report['gIoU']:.4f}" in capsys.readouterr().out


def test_train_hands_everything_over(monkeypatch, capsys):
    seen = []

    def run(*arguments):
        seen.append(arguments)
        return "runs/x/model"

    monkeypatch.setattr("gsva_jax.experiment.run", run)
    words = ["train", "gsva_tiny", "--learning-rate", "1e-3", "--init", "ckpt", "--steps", "5"]
    assert main(words) == 0
    assert seen == [("gsva_tiny", "runs", "ckpt", ("--learning-rate", "1e-3", "--steps", "5"))]
    assert "runs/x/model" in capsys.readouterr().out


def test_train_with_an_unknown_config(tmp_path, capsys):
    assert "gsva_tiny" in failed(capsys, "train", "gsva_tin", "--runs", tmp_path)


def test_data_scenes_hands_everything_over(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("grounding_jax.data.scene_files.write_scenes", lambda *arguments: seen.append(arguments))
    words = ["data", "scenes", "--out", tmp_path, "--num", 3, "--seed", 7, "--split", "test"]
    assert main(list(map(str, words))) == 0
    assert seen == [(str(tmp_path), 3, 7, "test", 320)]


# --- the surface


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_help_are_commands(name):
    examples = [line.strip() for line in COMMANDS[name].__doc__.splitlines() if line.strip().startswith("gsva ")]
    assert examples
    for example in examples:
        assert isinstance(_parse(shlex.split(example)[1:]), COMMANDS[name])


@pytest.mark.parametrize("words, code", [([], 2), (["--help"], 0), (["segmnt"], 2), (["segment", "--help"], 0)])
def test_help_and_unknown_commands(capsys, words, code):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == code
    printed = capsys.readouterr()
    assert "segment" in printed.out + printed.err


def test_errors_show_where_they_came_from_on_demand(monkeypatch, tmp_path):
    monkeypatch.setenv("GSVA_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["segment", str(tmp_path / "x.png"), "dog", "--out", str(tmp_path)])


def test_errors_of_the_system_are_one_line(monkeypatch, capsys):
    def run(self):
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(COMMANDS["export"], "run", run)
    assert failed(capsys, "export", "x", "--format", "lisa", "--out", "y") == "/some/file: Permission denied"


def test_ctrl_c_is_quiet(monkeypatch, capsys):
    def run(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["export"], "run", run)
    assert main(["export", "x", "--format", "lisa", "--out", "y"]) == 130
    assert capsys.readouterr().err == ""


def test_compiled_programs_are_kept_where_the_user_wants(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    try:
        jax.config.update(names[0], None)
        terminal.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "grounding_jax" / "jax")
        jax.config.update(names[0], "/elsewhere")
        terminal.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == "/elsewhere"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_the_command_imports_nothing_heavy_and_exits_with_its_code(tmp_path):
    script = (
        "import sys, gsva_jax.cli as cli\n"
        "print(sorted({'jax', 'flax', 'transformers', 'torch'} & sys.modules.keys()))\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    words = ["segment", str(tmp_path / "nothing.png"), "dog", "--out", str(tmp_path / "out")]
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr.startswith("gsva: error: there is no picture") and done.stderr.count("\n") == 1
