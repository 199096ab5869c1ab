"""The launch scripts: what they would run, and that a command arrives on a worker as it was typed."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.programs import processes

pytestmark = pytest.mark.quick

LAUNCH = Path(__file__).parent.parent.parent / "launch"
TYPED = ["gsva", "train", "gsva_7b", "--init", "gs://bucket/a folder", "--data", "it's; $HOME"]


def run(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return processes.run(["bash", LAUNCH / script, *arguments], environment)


@pytest.fixture(scope="module")
def remote() -> list[list[str]]:
    """The commands that tpu_run.sh would run, as words."""
    result = run("tpu_run.sh", "--dry-run", "--name", "pod", "--zone", "here", "--project", "ours", "--", *TYPED)
    assert result.returncode == 0, result.stderr
    # Bash quotes text of several lines as $'...', which shlex does not know: bash itself takes it apart.
    words = [
        processes.run(["bash", "-c", f"printf '%s\\0' {line}"]).stdout.split("\0")[:-1]
        for line in result.stdout.splitlines()
    ]
    return words


def test_the_checkout_goes_to_all_workers(remote):
    copy, install, start = remote
    for command in remote:
        assert command[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert {"--zone=here", "--project=ours", "--worker=all"} <= set(command)
    assert copy[4] == "scp" and copy[6] == "pod:/tmp/grounding.tar.gz"
    assert install[4:6] == start[4:6] == ["ssh", "pod"]


@pytest.mark.parametrize("worker", [0, 3])
def test_a_command_arrives_as_it_was_typed(remote, tmp_path, worker):
    """On a machine that has it installed; only worker 0 prints, the others write to a file."""
    programs = tmp_path / "grounding" / "venv" / "bin"
    programs.mkdir(parents=True)
    (tmp_path / "grounding" / "code").mkdir()
    (programs / "gsva").write_text('#!/bin/sh\nfor word in gsva "$@"; do echo "$word"; done\nexit 7\n')
    (programs / "hostname").write_text(f"#!/bin/sh\necho t1v-n-12345-w-{worker}\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    script = next(word for word in remote[2] if word.startswith("--command=")).removeprefix("--command=")
    environment = {"HOME": str(tmp_path), "PATH": f"{programs}:{os.environ['PATH']}"}
    result = processes.run(["bash", "-c", script], environment)
    printed = result.stdout if worker == 0 else (tmp_path / "grounding" / "log").read_text()
    assert printed.splitlines() == TYPED and result.returncode == 7
    assert (tmp_path / "grounding" / "pid").read_text().strip().isdigit()


def test_gpus_get_an_environment_of_their_own(tmp_path):
    result = run("gpu_run.sh", "--dry-run", "--venv", str(tmp_path / "venv"), "--", *TYPED)
    last = shlex.split(result.stdout.splitlines()[-1])
    assert last[:2] == ["exec", "env"] and last[2].startswith(f"PATH={tmp_path}/venv/bin:")
    assert last[-len(TYPED) :] == TYPED
    assert "cuda" in result.stdout


@pytest.mark.parametrize(
    ("script", "arguments", "wrong"),
    [
        ("tpu_run.sh", ["--", "gsva"], "--name and --zone"),
        ("tpu_run.sh", ["--name", "pod", "--zone", "here"], "no command"),
        ("tpu_run.sh", ["--nam", "pod"], "unknown option '--nam'"),
        ("gpu_run.sh", [], "no command"),
        ("gpu_run.sh", ["gsva"], "unknown option 'gsva'"),
    ],
)
def test_what_is_wrong_is_said(script, arguments, wrong):
    result = run(script, *arguments)
    assert result.returncode == 2 and wrong in result.stderr and "Runs one command" in result.stdout
