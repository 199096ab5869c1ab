"""Counts how often the ways told in docs/architecture.md come back to a folder that they had left.

    python -m tests.programs.ways

A way is a numbered list below a heading "The way of ..."; each item begins with a file in backquotes. A file can only
be on a way if it imports another one that is on it, or is imported by one.
"""

from __future__ import annotations

import pathlib
import re

from tests.import_graph import ROOT, import_graph

PAGE = ROOT / "docs" / "architecture.md"


def read_ways(text: str) -> dict[str, list[str]]:
    """The files of each way, by its heading."""
    ways = {}
    for section in re.split(r"^#+ ", text, flags=re.MULTILINE):
        if section.startswith("The way of "):
            ways[section.partition("\n")[0]] = re.findall(r"^\d+\. `([\w/]+\.py)`", section, flags=re.MULTILINE)
    return ways


def returns(files: list[str]) -> int:
    """How often a way comes back to a folder that it had left."""
    folders = [str(pathlib.PurePath(file).parent) for file in files]
    visits = [folder for k, folder in enumerate(folders) if k == 0 or folder != folders[k - 1]]
    return len(visits) - len(set(visits))


def unconnected(files: list[str], graph: dict[str, set[str]]) -> list[str]:
    """Files that neither import another one of the way nor are imported by one."""
    return [file for file in files if not graph[file] & set(files) and not any(file in graph[one] for one in files)]


def main() -> None:
    graph = import_graph()
    for way, files in read_ways(PAGE.read_text()).items():
        loose = unconnected(files, graph)
        print(f"{way}: {len(files)} files, {returns(files)} returns{f', not connected: {loose}' if loose else ''}")


if __name__ == "__main__":
    main()
