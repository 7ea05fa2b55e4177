"""Imports point down. The order below is the architecture; this test keeps it true."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "evolute"

FLOORS = [  # a room may import rooms on floors before its own, and itself
    {"types", "telemetry"},
    {"dataplane", "planners", "grammar", "kernels"},
    {"models", "lang", "circuits"},
    {"engine"},
    {"server"},
    {"envs"},
    {"agents", "reasoning"},
    {"train"},
    {"evolve"},
    {"dashboard", "bench", "testing"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = [path for path in sorted(SRC.rglob("*.py")) if path != SRC / "__init__.py"]


def room_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


def rooms_imported(source: str) -> set[str]:
    """Every room named by an import: at the top, lazy, or for typing only."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the room"
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {n.split(".")[1] for n in names if n.startswith("evolute.")} & FLOOR.keys()


def upward(room: str, source: str) -> set[str]:
    return {r for r in rooms_imported(source) - {room} if FLOOR[r] >= FLOOR[room]}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in FLOOR, f"{room!r} is a new room: give it a floor in {Path(__file__).name}"
    up = upward(room, path.read_text())
    assert not up, f"{room} (floor {FLOOR[room]}) must not import {sorted(up)}"


@pytest.mark.parametrize(
    "source",
    [
        "import evolute.train",
        "from evolute import train",
        "def f():\n    from evolute.train import Trainer",
        "if TYPE_CHECKING:\n    from evolute.train.trainer import Trainer",
    ],
)
def test_an_upward_import_is_refused(source):
    assert upward("engine", source) == {"train"}
