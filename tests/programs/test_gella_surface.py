"""What `gella` shows of itself: its commands, their examples, and what they import."""

import functools
import shlex
import sys
from pathlib import Path

import pytest

from gella_jax.cli import COMMANDS, _parse, main
from tests import command_line
from tests.programs import processes

failed = functools.partial(command_line.failed, main=main, program="gella")


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def test_data_scenes_hands_everything_over(monkeypatch, tmp_path, capsys):
    seen = []

    def write(*arguments):
        seen.append(arguments)
        return "train2017", "val2017"

    monkeypatch.setattr("grounding_jax.data.scenes.write_narrated.write_narrated_scenes", write)
    run("data", "scenes", "--out", tmp_path, "--num", 3, "--seed", 7, "--split", "train", "--size", 64)
    assert seen == [(str(tmp_path), 3, 7, "train", 64)]
    assert f"3 scenes of split train are in {tmp_path} as train2017 and val2017" in capsys.readouterr().out


def test_data_scenes_with_a_bad_size(tmp_path, capsys):
    words = ["data", "scenes", "--out", tmp_path, "--num", 3, "--seed", 7, "--split", "train", "--size", 100_000]
    assert "size in 32..2048" in failed(capsys, *words)


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_help_are_commands(name):
    examples = [line.strip() for line in COMMANDS[name].__doc__.splitlines() if line.strip().startswith("gella ")]
    assert examples
    for example in examples:
        words = shlex.split(example)[1:]
        assert isinstance(_parse(words), COMMANDS[words[0]])


@pytest.mark.parametrize("words, code", [([], 2), (["--help"], 0), (["grund"], 2), (["ground", "--help"], 0)])
def test_help_and_unknown_commands(capsys, words, code):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == code
    printed = capsys.readouterr()
    assert "ground" in printed.out + printed.err


def test_errors_show_where_they_came_from_on_demand(monkeypatch, tmp_path):
    monkeypatch.setenv("GELLA_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        main(["describe", str(tmp_path / "x.png"), "--checkpoint", "x"])


def test_the_command_imports_nothing_heavy_and_exits_with_its_code(tmp_path):
    script = (
        "import sys, gella_jax, gella_jax.cli as cli\n"
        "print(sorted({'jax', 'flax', 'transformers', 'torch', 'numpy'} & sys.modules.keys()))\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    words = ["describe", str(tmp_path / "nothing.png"), "--checkpoint", "x"]
    root = Path(__file__).parent.parent.parent
    done = processes.run([sys.executable, "-c", script, *words], cwd=root)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert done.stderr.startswith("gella: error: there is no picture") and done.stderr.count("\n") == 1


def test_the_package_has_what_it_says():
    import gella_jax

    for name in gella_jax.__all__:
        assert getattr(gella_jax, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        gella_jax.nothing  # noqa: B018
