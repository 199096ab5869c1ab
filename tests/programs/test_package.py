"""What the package says about itself: one version everywhere, and types for whoever imports it."""

import importlib
import importlib.metadata
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import grounding_jax

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("program", ["gsva", "gella"])
def test_one_version(program):
    done = subprocess.run(
        [sys.executable, "-m", f"{program}_jax", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    jax = importlib.metadata.version("jax")
    assert done.stdout == f"{program} {grounding_jax.__version__} (jax {jax}, Python {platform.python_version()})\n"
    assert importlib.import_module(f"{program}_jax").__version__ == grounding_jax.__version__


def test_the_citation_has_the_version():
    lines = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {grounding_jax.__version__}" in lines


@pytest.mark.parametrize("package", ["gella_jax", "grounding_jax", "gsva_jax"])
def test_types_are_shipped(package):
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data[package] and (ROOT / package / "py.typed").exists()


def test_the_wheel_has_every_folder_of_configs():
    """setup.py names them; the bare name of a config works after installation."""
    folders = sorted(path.name for path in (ROOT / "configs").iterdir() if path.is_dir())
    named = re.findall(r'"(\w+)_jax\.configs": "configs/(\w+)"', (ROOT / "setup.py").read_text(encoding="utf-8"))
    assert folders == ["gella", "gsva"] == sorted(name for name, _ in named)
    assert all(package == folder for package, folder in named)
