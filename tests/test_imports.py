"""Light rooms stay light, and --help is quick because of it."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "fastapi", "transformers", "optuna", "matplotlib", "reasoning_gym")
LIGHT = (
    "evolute",
    "evolute.types",
    "evolute.types.settings",
    "evolute.telemetry",
    "evolute.grammar",
    "evolute.lang",
    "evolute.reasoning.thought_buffer",
    "evolute.models.encoder",
    "evolute.cli.main",
)


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_room_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [(), ("loop",), ("bench",)], ids=str)
def test_help_loads_nothing_heavy(words):
    code = f"""
import sys
from evolute.cli.main import main
sys.argv = ["evolute", *{words!r}, "--help"]
try:
    main()
except SystemExit:
    pass
print([m for m in {HEAVY!r} if m in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in run.stdout and run.stdout.splitlines()[-1] == "[]"
