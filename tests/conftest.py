"""Settings every test runs under, made before anything imports jax, and the folder of reference numbers."""

import functools
import os
import re
from pathlib import Path

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Threads of XLA's CPU client: with only two, several devices can wait for each other for ever.
os.environ.setdefault("NPROC", "16")
# Tolerances are those of float32; the environment reaches the commands that tests start, too.
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "float32")
# Nothing under test may reach for a model hub.
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent


def pytest_addoption(parser):
    parser.addoption("--without-torch", action="store_true", help="leave out, and name, the files that need PyTorch")


def pytest_report_header(config):
    if config.getoption("--without-torch"):
        files = [path for path in sorted(Path(__file__).parent.rglob("test_*.py")) if needs_torch(path)]
        return f"left out, for want of PyTorch: {', '.join(str(path.relative_to(ROOT)) for path in files)}"


def pytest_ignore_collect(collection_path, config):
    if config.getoption("--without-torch") and collection_path.suffix == ".py" and needs_torch(collection_path):
        return True


@functools.cache
def needs_torch(path: Path) -> bool:
    """Whether a file of the tests imports PyTorch on top, itself or through another file of the tests."""
    waiting, seen = [path], set()
    while waiting:
        seen.add(path := waiting.pop())
        text = path.read_text(encoding="utf-8")
        if re.search(r"^(import|from) torch\b", text, re.MULTILINE):
            return True
        imports = re.findall(r"^from (tests[\w.]*) import (\w+)", text, re.MULTILINE)
        names = {name.replace(".", "/") for module, first in imports for name in (module, f"{module}.{first}")}
        waiting += {file for name in names if (file := ROOT / f"{name}.py").exists()} - seen
    return False


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return not_skipped((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return not_skipped((yield))


def not_skipped(report):
    """On continuous integration every tool has to be there: what is skipped has failed."""
    if os.environ.get("CI") and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"nothing may be skipped where CI is set: {report.longrepr[2]}"
    return report


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
    from grounding_jax.cli import training

    for module in (terminal, training):
        monkeypatch.setattr(module, "keep_compiled_programs", lambda: None)
