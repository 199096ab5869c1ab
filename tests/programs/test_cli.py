"""`gsva` from its words to its files, with the golden weights."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from grounding_jax import terminal
from grounding_jax.files.masks import decode_mask
from grounding_jax.weights.readers import open_weights
from grounding_jax.weights.writers import write_torch
from gsva_jax.cli import COMMANDS, _parse, demo, main
from tests.command_line import failed, import_words, records, write_picture
from tests.programs import processes

pytestmark = pytest.mark.usefixtures("no_kept_programs")


def test_segment_writes_an_overlay_and_masks_and_prints_the_answer(golden_model, picture, tmp_path, capsys):
    out = tmp_path / "results"
    words = ["segment", picture, "Top guy", "a giraffe", "--checkpoint", golden_model, "--out", out]
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
def test_threshold(golden_model, picture, tmp_path, threshold, rejected):
    words = [
        "segment",
        picture,
        "--threshold",
        threshold,
        "--checkpoint",
        golden_model,
        "--out",
        tmp_path,
        "dog",
        "cat",
    ]
    assert main(list(map(str, words))) == 0
    assert sum(record["rejected"] for record in records(tmp_path)) == rejected


def test_a_folder_loses_only_the_pictures_that_are_bad(golden_model, tmp_path, capsys):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    for name in ("a.png", "A.jpg", "c.webp"):
        write_picture(pictures / name)
    (pictures / "b.png").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("no picture either")
    assert main(["segment", str(pictures), "dog", "--checkpoint", str(golden_model), "--out", str(out)]) == 1
    assert {path.name for path in out.iterdir()} == {"A", "a-2", "c"}
    assert all(len(records(folder)) == 1 for folder in out.iterdir())
    printed = capsys.readouterr()
    assert "3 of 4 pictures done" in printed.out
    assert "left out 1 other files" in printed.err
    errors = [line for line in printed.err.splitlines() if line.startswith("gsva: error: ")]
    assert len(errors) == 1 and "b.png" in errors[0] and "not a format that is read here" in errors[0]


def test_a_jsonl_file_has_its_own_expressions(golden_model, tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    for name in ("x.png", "sub/x.png"):
        write_picture(tmp_path / name)
    lines = [
        {"image": "x.png", "expressions": ["dog", "cat"]},
        {"image": "sub/x.png", "expressions": ["собака"]},
        {"image": "x.png", "expressions": [" . "]},
        {"image": "gone.png", "expressions": ["dog"]},
        {"image": "sub/x.png", "expressions": ["a dog " * 2000]},  # which is found out with those beside it
    ]
    wishes = tmp_path / "wishes.jsonl"
    wishes.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    assert main(["segment", str(wishes), "--checkpoint", str(golden_model), "--out", str(tmp_path / "out")]) == 1
    assert [record["expression"] for record in records(tmp_path / "out" / "x")] == ["dog", "cat"]
    assert [record["expression"] for record in records(tmp_path / "out" / "x-2")] == ["собака"]
    printed = capsys.readouterr()
    assert f"2 of 5 pictures done; results in {tmp_path / 'out'}\n" in printed.out
    errors = [line for line in printed.err.splitlines() if line.startswith("gsva: error: ")]
    for error, part in zip(errors, ("is empty", "there is no picture", "tokens"), strict=True):
        assert part in error


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty: it needs lines like"),
        ('{"image": "x.png", "expressions": ["dog"]}\n{"image": "x.png"', "line 2 is not valid JSON"),
        ('{"image": "x.png"}', "line 1 at $: "),
        ('["x.png", "dog"]', "line 1 at $: "),
        ('{"image": "x.png", "expressions": "dog"}', "line 1 at $.expressions: expected `array`"),
        ('{"image": "x.png", "expressions": []}', "line 1 at $.expressions: expected `array`"),
        (
            '{"image": "x.png", "expressions": ["dog"], "masks": "m"}',
            "line 1 at $: object contains unknown field `masks`",
        ),
    ],
)
def test_a_damaged_jsonl_file(tmp_path, capsys, text, message):
    (tmp_path / "wishes.jsonl").write_text(text)
    assert message in failed(capsys, "segment", tmp_path / "wishes.jsonl", "--out", tmp_path / "out")


def test_ask_prints_the_answer_and_draws_what_has_masks(golden_model, picture, tmp_path, capsys):
    options = ["--max-new", "24", "--temperature", "2", "--seed", "3", "--out", str(tmp_path / "out")]
    assert main(["ask", str(picture), "What is this?", "--checkpoint", str(golden_model), *options]) == 0
    printed = capsys.readouterr().out
    marks = printed.splitlines()[0].count("[SEG]") + printed.splitlines()[0].count("[REJ]")
    assert (tmp_path / "out" / "masks.json").exists() == (marks > 0)
    assert len(records(tmp_path / "out")) == marks if marks else "no masks" in printed


def test_demo(golden_model, tmp_path, capsys):
    demo.demo(str(tmp_path / "demo"), str(golden_model))
    printed = capsys.readouterr().out
    for name, (picture, expressions) in demo.PICTURES.items():
        assert len(records(tmp_path / "demo" / name)) == len(expressions)
        assert picture.name in printed and str(tmp_path / "demo" / name / "overlay.png") in printed


def assert_same(left: Path, right: Path) -> None:
    a, b = open_weights(left), open_weights(right)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name].read(), b[name].read(), strict=True)


def test_what_was_imported_comes_out_the_same(gsva_golden, tmp_path, capsys):
    words = import_words(gsva_golden, gsva_golden / "gsva-tiny-a.bin", tmp_path / "ckpt")
    assert main(list(map(str, words))) == 0
    assert "template: llava_v1" in capsys.readouterr().out
    out = tmp_path / "out.bin"
    assert main(["export", str(tmp_path / "ckpt"), "--format", "official", "--out", str(out)]) == 0
    assert_same(gsva_golden / "gsva-tiny-a.bin", out)
    assert "already exists" in failed(capsys, "export", tmp_path / "ckpt", "--format", "official", "--out", out)
    lisa, again = tmp_path / "lisa", tmp_path / "again"
    assert main(["export", str(tmp_path / "ckpt"), "--format", "lisa", "--out", str(lisa)]) == 0
    words = [*import_words(gsva_golden, lisa, again, "lisa"), "--vision-tower", gsva_golden / "tiny-clip"]
    assert main(list(map(str, words))) == 0
    assert (again / "config.json").exists()


def test_import_of_the_parts_and_of_a_difference(gsva_golden, tmp_path, capsys):
    parts = ["--vision-tower", gsva_golden / "tiny-clip", "--sam", gsva_golden / "tiny_sam_vit_b.pth"]
    words = ["import", "--format", "llava", "--language-model", gsva_golden / "tiny-llava", *parts]
    words += ["--sizes", gsva_golden / "config.json", "--seed", 1, "--out", tmp_path / "new"]
    assert main(list(map(str, words))) == 0
    assert "fresh: 4 token rows" in capsys.readouterr().out
    shutil.copytree(gsva_golden / "tiny-llava", tmp_path / "base")
    tensors = {
        name: tensor for name, tensor in open_weights(gsva_golden / "tiny-llava").items() if "projector" not in name
    }
    for file in (*(tmp_path / "base").glob("*.bin"), *(tmp_path / "base").glob("*.safetensors")):
        file.unlink()
    write_torch(tmp_path / "base" / "pytorch_model.bin", tensors)
    words = ["import", "--format", "llava-delta", tmp_path / "base", gsva_golden / "tiny-llava", "--out"]
    assert main(list(map(str, [*words, tmp_path / "llava"]))) == 0
    doubled, delta = open_weights(tmp_path / "llava"), open_weights(gsva_golden / "tiny-llava")
    np.testing.assert_array_equal(doubled["model.norm.weight"].read(), 2 * delta["model.norm.weight"].read())
    words = [*words, tmp_path / "new from a difference", *parts, "--sizes", gsva_golden / "config.json"]
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


# --- evaluate, train, data


def test_evaluate_gives_the_official_numbers_in_one_flat_object(golden_model, gsva_golden, tmp_path, capsys):
    file = tmp_path / "new" / "numbers.json"
    words = ["evaluate", "--checkpoint", golden_model, "--data", gsva_golden / "data", "--dataset", "grefcoco|unc|val"]
    assert main(list(map(str, [*words, "--protocol", "official", "--json", file]))) == 0
    report = json.loads(file.read_text())
    assert (report["dataset"], report["protocol"]) == ("grefcoco|unc|val", "official")
    assert all(not isinstance(value, dict | list) for value in report.values())
    wanted = json.loads((gsva_golden / "meta.json").read_text())["metrics"]["grefcoco_val"]
    assert {name: report[name] for name in wanted} == pytest.approx(wanted, abs=2e-3)
    assert f"{report['gIoU']:.4f}" in capsys.readouterr().out


def test_evaluate_writes_a_table_and_a_gallery(golden_model, gsva_golden, tmp_path, capsys):
    table, page = tmp_path / "a" / "table.md", tmp_path / "b" / "page.html"
    words = ["evaluate", "--checkpoint", golden_model, "--data", gsva_golden / "data", "--dataset", "ReasonSeg|val"]
    assert main(list(map(str, [*words, "--protocol", "official", "--markdown", table, "--gallery", page]))) == 0
    printed = capsys.readouterr().out
    ours = json.loads((gsva_golden / "meta.json").read_text())["metrics"]["reasonseg_val"]["cIoU"]
    (row,) = [line for line in table.read_text().splitlines() if line.startswith("| cIoU |")]
    cells = [float(cell) for cell in row.strip("| ").split(" | ")[1:]]
    assert cells == [pytest.approx(100 * ours, abs=0.2), 53.2, 56.4]
    assert "LISA-7B ft" in printed and f"{cells[0]:.2f}" in printed
    assert page.read_text().count("<article>") == 1 + 1 + 2
    assert {path.name for path in (*table.parent.iterdir(), *page.parent.iterdir())} == {"table.md", "page.html"}
    words = [*words[:5], "--dataset", "refcoco|unc|val", "--protocol", "guided", "--question", "show"]
    assert "has only 'what'" in failed(capsys, *words)


def test_train_hands_everything_over(monkeypatch, capsys):
    seen = []

    def run(*arguments):
        seen.append(arguments)
        return "runs/x/model"

    from gsva_jax.training.experiment import GSVA

    monkeypatch.setattr("grounding_jax.training.experiment.run", run)
    words = ["train", "gsva_tiny", "--learning-rate", "1e-3", "--init", "ckpt", "--steps", "5"]
    assert main(words) == 0
    assert seen == [(GSVA, "gsva_tiny", "runs", "ckpt", ("--learning-rate", "1e-3", "--steps", "5"), False)]
    assert "runs/x/model" in capsys.readouterr().out


def test_train_with_an_unknown_config(tmp_path, capsys):
    assert "gsva_tiny" in failed(capsys, "train", "gsva_tin", "--runs", tmp_path)


def test_data_scenes_hands_everything_over(monkeypatch, tmp_path):
    seen = []

    monkeypatch.setattr("grounding_jax.data.scenes.write.write_scenes", lambda *arguments: seen.append(arguments))
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


@pytest.mark.parametrize(
    "words, name",
    [
        ("segment x dog --out ''", "out"),
        ("segment '' dog --out x", "source"),
        ("ask x what? --out x --checkpoint ''", "checkpoint"),
        ("evaluate --data x --dataset d --protocol guided --json ''", "json"),
        ("data check ''", "root"),
    ],
)
def test_an_empty_word_is_not_the_current_folder(capsys, monkeypatch, tmp_path, words, name):
    monkeypatch.chdir(tmp_path)
    assert failed(capsys, *shlex.split(words)) == f"{name} is empty: give it a value; '.' is the current folder"
    assert not list(tmp_path.iterdir())


def test_none_is_a_word_like_others(capsys):
    words = "evaluate --data x --dataset d --protocol guided"
    assert _parse([*words.split(), "--json", "None"]).json == "None"
    assert _parse(words.split()).json is None
    with pytest.raises(SystemExit):
        _parse([*words.split(), "--dtype", "None"])
    assert "Expected one of ('bfloat16', 'float32')" in " ".join(capsys.readouterr().err.replace("│", " ").split())


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
    root = Path(__file__).parent.parent.parent
    done = processes.run([sys.executable, "-c", script, *words], cwd=root)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr.startswith("gsva: error: there is no picture") and done.stderr.count("\n") == 1
