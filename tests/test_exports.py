"""Each room's `__all__` is sorted, complete and true."""

import ast
import importlib
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "evolute"
ROOMS = [p.parent for p in sorted(SRC.rglob("__init__.py")) if p.read_text().strip()]


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: str(p.relative_to(SRC.parent)))
def test_all_names_what_the_room_exports(room):
    name = ".".join(room.relative_to(SRC.parent).parts)
    module = importlib.import_module(name)
    tree = ast.parse((room / "__init__.py").read_text())
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("evolute")
        for alias in node.names
    }
    constants = [n for n in module.__all__ if n.isupper()]
    classes = [n for n in module.__all__ if n[0].isupper() and not n.isupper()]
    functions = [n for n in module.__all__ if not n[0].isupper()]
    assert module.__all__ == sorted(constants) + sorted(classes) + sorted(functions)
    assert imported <= set(module.__all__)
    assert all(hasattr(module, n) for n in module.__all__)
