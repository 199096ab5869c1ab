"""A disk that is full while a checkpoint is saved: one line says so, and what was saved before is still there."""

import json
import sys

import jax.numpy as jnp

from grounding_jax.training.loop import train
from tests.grounding.test_training import OPTIONS, Regression
from tests.programs import processes

SCRIPT = """
import pathlib, resource, signal, sys, time
from grounding_jax.training.loop import train
from tests.programs.test_full_disk import Large
from tests.grounding.test_training import OPTIONS

try:
    train(Large(broken_from=17), OPTIONS, sys.argv[1])  # ends in update 5, with a checkpoint of update 3
except RuntimeError:
    while not (pathlib.Path(sys.argv[1]) / "checkpoints" / "3").exists():
        time.sleep(0.1)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, 10**5))  # as if there were no room for more
try:
    train(Large(), OPTIONS, sys.argv[1])
except OSError as error:
    print("said:", error)
"""


class Large(Regression):
    """Has more to save than the limit allows."""

    def init(self, key):
        return {**super().init(key), "slow": {"offset": jnp.zeros(()), "noise": jnp.arange(2.0**18) ** 0.3}}


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path):
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    result = processes.run(command, {"JAX_PLATFORMS": "cpu"})
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("said:")]
    assert "a checkpoint could not be saved; the newest complete one is of step 3" in line and "too large" in line
    resumed = train(Large(), OPTIONS, tmp_path)
    assert resumed["line"]["slope"].any()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()][-3:] == [4, 5, 6]
