"""What is left to the slow tests is named truly, and something of it stays in the quick ones."""

from pathlib import Path

import pytest
from long_variants import LONG, is_long

TESTS = Path(__file__).parent


@pytest.mark.parametrize("path", LONG)
def test_names_exist(path):
    text = (TESTS / path).read_text()
    assert all(f"def {test}(" in text for test in LONG[path])


def test_variants_are_told_apart():
    weights = "tests/equivalence/test_engine_weights.py"
    update = "test_an_update_in_any_step_is_told_and_leaves_no_stale_page"
    assert is_long(f"{weights}::{update}[base-step1-4-torch]")
    assert not is_long(f"{weights}::{update}[base-step1-4-native]")
    assert not is_long(f"{weights}::another[torch]")
    assert is_long(
        "tests/unit/kernels/test_triton_compiles.py::"
        + next(iter(LONG["unit/kernels/test_triton_compiles.py"]))
        + "[chunk]"
    )
