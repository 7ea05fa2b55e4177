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
    "evolute.cli.main",
)


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_room_loads_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
