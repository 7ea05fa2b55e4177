"""Which classes and functions are in a Python file, and on which lines?

    outline(source) -> [[kind, dotted name, first line, last line], ...]    None: no Python
    main()                     reads paths from stdin as JSON, writes {path: outline} as JSON

Standard library only: `code_search.py` runs it inside a sandbox, where a file that brings the
parser down costs nothing but itself.
"""

from __future__ import annotations

import ast
import json
import sys

Row = tuple[str, str, int, int]


def outline(source: str) -> list[Row] | None:
    """Decorators belong to what they decorate."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found: list[Row] = []
    _visit(tree, "", "", found)
    return found


def main() -> None:
    for path in json.load(sys.stdin):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                rows = outline(file.read())
        except OSError:
            rows = None
        print(json.dumps([path, rows]), flush=True)


def _visit(node: ast.AST, prefix: str, inside: str, found: list[Row]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            is_class = isinstance(child, ast.ClassDef)
            kind = "class" if is_class else "method" if inside == "class" else "function"
            name = f"{prefix}{child.name}"
            first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
            found.append((kind, name, first, child.end_lineno or child.lineno))
            _visit(child, name + ".", "class" if is_class else "function", found)
        elif not isinstance(child, ast.expr):
            _visit(child, prefix, inside, found)


if __name__ == "__main__":
    main()
