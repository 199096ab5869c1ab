"""Settings every test runs under, made before anything imports jax, and the folder of reference numbers."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads of XLA's CPU client: with only two, several devices can wait for each other for ever.
os.environ.setdefault("NPROC", "16")
# Tolerances are those of float32; the environment reaches the commands that tests start, too.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")
# Nothing under test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def golden() -> Path:
    """The numbers that the reference implementations gave: one folder per system, each with a README."""
    return Path(__file__).parent / "golden"
