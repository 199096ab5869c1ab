"""Which file of the three packages imports which, also inside functions, but not what only a type checker reads."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("grounding_jax", "gsva_jax", "gella_jax")


@functools.cache
def import_graph() -> dict[str, set[str]]:
    """Files by their path from the root of the repository, and the files that each imports."""
    files = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    return {file: _imports(file, files) for file in sorted(files)}


def _imports(file: str, files: set[str]) -> set[str]:
    found = set()
    for node in _nodes(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            # What is imported from a package may be one of its modules.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {_file(name, files) or _file(node.module, files) for name in names}
        elif isinstance(node, ast.Import):
            found |= {_file(alias.name, files) for alias in node.names}
    return found - {None, file}


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _nodes(child)


def _file(module: str, files: set[str]) -> str | None:
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in files), None)


def cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    numbers, lowest, stack, groups = {}, {}, [], []

    def visit(node: str) -> None:
        numbers[node] = lowest[node] = len(numbers)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in numbers:
                visit(other)
            if other in stack:
                lowest[node] = min(lowest[node], lowest[other])
        if lowest[node] == numbers[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(group)

    for node in graph:
        if node not in numbers:
            visit(node)
    return groups
