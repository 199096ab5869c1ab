"""Whatever comes from outside enters through grounding_jax/files, which knows what may be wrong with it."""

import ast
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("grounding_jax", "gsva_jax", "gella_jax")
DOOR = REPOSITORY / "grounding_jax" / "files"
# Functions that read, by the module that they are called of; None is any object, such as a path.
READING = {
    ("json", "load"),
    ("json", "loads"),
    ("np", "load"),
    ("pickle", "load"),
    ("pickle", "loads"),
    ("Image", "open"),
    (None, "read_text"),
    (None, "read_bytes"),
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


def _mode(call: ast.Call) -> str:
    """The mode of path.open(mode), "r" by default; none where what is opened is no path."""
    if not call.args and not call.keywords:
        return "r"
    first = call.args[0] if call.args else None
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def reading_lines(source: str) -> list[int]:
    """The lines of a program that read."""
    return [node.lineno for node in ast.walk(ast.parse(source)) if reads(node)]


def test_only_the_door_reads():
    found = {}
    for package in PACKAGES:
        for file in sorted((REPOSITORY / package).rglob("*.py")):
            if DOOR not in file.parents and (lines := reading_lines(file.read_text())):
                found[str(file.relative_to(REPOSITORY))] = lines
    assert not found, found


def test_every_way_to_read_is_seen():
    ways = ("open('a')", "path.open()", "path.open('rb')", "json.load(f)", "json.loads(t)", "np.load(f)")
    for way in (*ways, "pickle.load(f)", "Image.open(f)", "path.read_text()", "(a / b).read_bytes()"):
        assert reading_lines(way) == [1], way
    for way in ("regular.read_bytes(file)", "text.read_text(file)", "path.open('a')", "self.open(picture, files)"):
        assert reading_lines(way) == [], way
