"""Whatever comes from outside enters through grounding_jax/files, which knows what may be wrong with it."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("grounding_jax", "gsva_jax", "gella_jax")
DOOR = REPOSITORY / "grounding_jax" / "files"
# Functions that read, by the module that they are called of; None is any object, such as a path.
READING = {
    ("json", "load"),
    ("json", "loads"),
    ("np", "load"),
    ("np", "memmap"),
    ("tarfile", "open"),
    ("pickle", "Unpickler"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("Image", "open"),
    (None, "read_text"),
    (None, "read_bytes"),
}
# Readers by the lines that they have, and why they are not behind the door.
EXCEPTIONS = {
    "grounding_jax/weights/readers/files.py": "maps a file of weights, which `regular` has checked",
    "grounding_jax/data/scenes/cutouts.py": "opens the package that npm has just fetched",
}
MODULES = ("regular", "text")  # of the door, whose functions are called like methods of a path


def reads(node: ast.AST) -> bool:
    """Whether a node of a program is a call that reads a file or parses what was in one."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    if isinstance(function, ast.Name):
        return function.id == "open"
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value.id if isinstance(function.value, ast.Name) else None
    if (owner, function.attr) in READING or (None, function.attr) in READING:
        return owner not in MODULES
    return function.attr == "open" and _mode(node)[:1] == "r"


def writes_any_number(node: ast.AST) -> bool:
    """Whether a node of a program is a call that writes NaN where it gets one, which is no JSON."""
    if not isinstance(node, ast.Call) or ast.unparse(node.func) not in ("json.dump", "json.dumps"):
        return False
    return not any(k.arg == "allow_nan" and ast.unparse(k.value) == "False" for k in node.keywords)


def _mode(call: ast.Call) -> str:
    """The mode of path.open(mode), "r" by default; none where what is opened is no path."""
    if not call.args and not call.keywords:
        return "r"
    named = (keyword.value for keyword in call.keywords if keyword.arg == "mode")
    first = call.args[0] if call.args else next(named, None)
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def lines_of(source: str, kind: Callable[[ast.AST], bool]) -> list[int]:
    """The lines of a program with nodes of a kind."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if kind(node)]


@pytest.mark.parametrize("kind", [reads, writes_any_number])
def test_only_the_door(kind):
    found = {}
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            if DOOR not in file.parents and (lines := lines_of(file.read_text(), kind)):
                found[str(file.relative_to(REPOSITORY))] = lines
    assert found.keys() == (EXCEPTIONS.keys() if kind is reads else set()), found


def test_every_way_to_read_is_seen():
    ways = ("open('a')", "path.open()", "path.open('rb')", "json.load(f)", "json.loads(t)", "np.load(f)")
    for way in (
        *ways,
        "pickle.load(f)",
        "Image.open(f)",
        "np.memmap(f)",
        "path.open(mode='rb')",
        "path.read_text()",
        "(a / b).read_bytes()",
    ):
        assert lines_of(way, reads) == [1], way
    for way in ("regular.read_bytes(file)", "text.read_text(file)", "path.open('a')", "self.open(picture, files)"):
        assert lines_of(way, reads) == [], way
