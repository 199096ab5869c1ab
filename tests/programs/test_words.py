"""Descriptions of arguments say first what a thing is."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

ROOT = Path(__file__).parent.parent.parent
# "of the mask", "what it costs", "how it is read", "whether it fits": about the thing, before it is named.
VAGUE = ("of", "what", "how", "whether", "which", "where", "when")
SECTION = re.compile(r"^(Args|Attributes):\n((?:[ \t]+.*\n?|\n)*)", re.MULTILINE)
ENTRY = re.compile(r"^    (\*{0,2}\w+(?:, \*{0,2}\w+)*): +(.*)$", re.MULTILINE)


def descriptions(source: str) -> Iterator[tuple[str, str, str]]:
    """Every argument or attribute that a docstring describes: where (a function or class), its name, the first line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for section in SECTION.finditer(ast.get_docstring(node) or ""):
                yield from ((node.name, *entry) for entry in ENTRY.findall(section[2]))


def test_descriptions_are_found():
    docstring = '"""Adds.\n\n    Args:\n        a: of one, or\n            two.\n        *b: the rest.\n    """'
    source = f"def f(a, *b):\n    {docstring}\n"
    assert list(descriptions(source)) == [("f", "a", "of one, or"), ("f", "*b", "the rest.")]


@pytest.mark.parametrize("package", ["gella_jax", "grounding_jax", "gsva_jax"])
def test_a_description_says_what_a_thing_is(package):
    vague = [
        f"{file.relative_to(ROOT)}: {where}: {name}: {text}"
        for file in sorted((ROOT / package).rglob("*.py"))
        for where, name, text in descriptions(file.read_text(encoding="utf-8"))
        if text.split()[0].rstrip(",:").lower() in VAGUE
    ]
    assert not vague, "\n".join(vague)
