"""Imports go one way (docs/architecture.md), and no files import each other in a circle."""

import pathlib

import pytest

from tests.import_graph import PACKAGES, cycles, import_graph
from tests.programs import ways

# From what is built last to what everything stands on: a folder imports those on lower lines, and on its own line only
# where no circle of folders comes of it.
FOUNDATIONS = (
    {"cli"},
    {"training", "evaluation", "segmenters"},
    {"data", "inference", "weights", "language", "sharding", "metrics", "drawing", "planning"},
    {"models", "files"},
)
SYSTEM = (
    {"cli"},
    {"loading"},
    {"training", "evaluation", "tiny"},
    {"predict", "results", "page", "answers"},
    {"engine"},
)
# What names stand in front of all others; they are imported when they are used.
ENTRY_POINTS = ("__init__", "__main__")


def folder(file: str) -> str:
    """The package of foundations that a file lies in; a module beside them is its own."""
    parts = pathlib.PurePath(file).with_suffix("").parts
    return parts[1] if len(parts) > 1 else parts[0]


def level(levels: tuple[set[str], ...], name: str) -> int:
    """The line of a folder; what is on none is below all of them."""
    return next((k for k, line in enumerate(levels) if name in line), len(levels))


def test_every_folder_of_the_foundations_has_its_line():
    names = {folder(file) for file in import_graph() if file.startswith("grounding_jax/")}
    assert names - set().union(*FOUNDATIONS) == {"__init__", "terminal"}


def edges(package: str):
    for file, imported in import_graph().items():
        for other in imported:
            if file.startswith(f"{package}/"):
                yield file, other


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_go_one_way(package):
    levels = FOUNDATIONS if package == "grounding_jax" else SYSTEM
    upward = [
        f"{file} imports {other}"
        for file, other in edges(package)
        if other.startswith(f"{package}/") and level(levels, folder(other)) < level(levels, folder(file))
        if folder(file) not in ENTRY_POINTS
    ]
    assert upward == []


@pytest.mark.parametrize("package", PACKAGES)
def test_systems_do_not_know_each_other_and_foundations_know_none(package):
    allowed = {package, "grounding_jax"}
    strangers = [f"{file} imports {other}" for file, other in edges(package) if other.split("/")[0] not in allowed]
    assert strangers == []


def test_no_files_import_in_a_circle():
    assert cycles(import_graph()) == []


def test_no_folders_of_the_foundations_import_in_a_circle():
    graph: dict[str, set[str]] = {}
    for file, other in edges("grounding_jax"):
        if folder(file) != folder(other):
            graph.setdefault(folder(file), set()).add(folder(other))
    assert len(graph) > 8
    assert cycles(graph) == []


def test_models_know_nothing_of_files_datasets_and_tokenizers():
    allowed = {"models"}
    found = [(file, other) for file, other in edges("grounding_jax") if folder(file) == "models"]
    assert found and [pair for pair in found if folder(pair[1]) not in allowed] == []


def test_the_ways_come_back_to_few_folders():
    told, graph = ways.read_ways(ways.PAGE.read_text()), import_graph()
    assert len(told) == 4
    for way, files in told.items():
        assert len(files) > 5 and set(files) <= graph.keys(), way
        assert ways.unconnected(files, graph) == [], way
        assert ways.returns(files) <= 3, way
