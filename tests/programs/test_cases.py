"""Inputs that were tried and went wrong once: each program makes them and ends with status 1 if they do harm again."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import needs_torch

CASES = Path(__file__).parent / "cases"
REPOSITORY = CASES.parents[2]
HELPERS = ("case.py", "encodings_of_masks.py")  # which programs import
PROGRAMS = sorted(file.name for file in CASES.iterdir() if file.suffix in (".py", ".sh") and file.name not in HELPERS)


def pytest_generate_tests(metafunc):
    """All programs, without PyTorch those that do without it; the long ones are slow tests."""
    left_out = needs_torch if metafunc.config.getoption("--without-torch") else lambda path: False
    names = [name for name in PROGRAMS if not left_out(CASES / name)]
    marked = [pytest.param(name, marks=[pytest.mark.slow] * name.startswith("hostile")) for name in names]
    metafunc.parametrize("name", marked)


def test_case(name, tmp_path):
    program = CASES / name
    if program.suffix == ".sh":
        words = ["bash", program, REPOSITORY, sys.executable]
    else:
        words = [sys.executable, program, tmp_path / "out"]
    done = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
