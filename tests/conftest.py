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


@pytest.fixture(scope="session")
def gsva_golden(golden) -> Path:
    """The numbers of the GSVA release."""
    return golden / "gsva"


@pytest.fixture(scope="session")
def golden_model(gsva_golden, tmp_path_factory) -> Path:
    """A model folder: the golden GSVA, imported."""
    from gsva_jax.weights import open_official  # not before the settings above

    out = tmp_path_factory.mktemp("golden") / "model"
    sizes = gsva_golden / "config.json"
    open_official(gsva_golden / "gsva-tiny-a.bin", gsva_golden / "tiny-llava", sizes=sizes).save(out)
    return out


@pytest.fixture
def picture(tmp_path) -> Path:
    """A small photograph-like picture, 60 x 80."""
    from tests.command_line import write_picture

    return write_picture(tmp_path / "picture.png")


@pytest.fixture
def no_kept_programs(monkeypatch):
    """Tests leave no compiled programs on the machine."""
    from grounding_jax import terminal
    from gsva_jax.cli import experiments

    for module in (terminal, experiments):
        monkeypatch.setattr(module, "keep_compiled_programs", lambda: None)
