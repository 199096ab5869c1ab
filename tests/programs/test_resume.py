"""Two kills, one of them inside a save, and one SIGTERM: the benchmark that does more of them must find nothing."""

import sys
from pathlib import Path

import pytest

from tests.programs import processes


@pytest.mark.parametrize(
    "task, steps", [("linear", 400), *(pytest.param(name, 40, marks=pytest.mark.slow) for name in ("gsva", "gella"))]
)
def test_a_killed_training_ends_with_the_same_bits(task, steps):
    script = Path(__file__).parent.parent.parent / "benchmarks" / "resume.py"
    command = [sys.executable, str(script), "--task", task, "--steps", str(steps)]
    result = processes.run([*command, "--kills", "2", "--inside", "1", "--terms", "1"])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all losses equal: True; result equal bit for bit: True; SIGTERM saved its step: True" in result.stdout
