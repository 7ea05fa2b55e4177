"""The fairness bench does what it says: tenants' prefixes thrash under vtc, not under dlpm."""

import pytest

from evolute.bench import fairness
from evolute.engine import EngineConfig
from evolute.models import load_model

THRASHING = fairness.Size(8, 6, 512, 8, 4, 3.0, 8, 3, 128)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_the_whole_bench_tells_its_figures(tiny):
    result = fairness.run(True, model=tiny)
    sections = {"published", "pools", "limits", "overhead", "shared", "interactive"}
    assert {name.split("/")[0] for name in result.figures} == sections
    assert result.figures["published/overload/vtc/gap_of_bound"] < 1
    assert result.figures["published/overload/fcfs/gap_of_bound"] > 1, "the bound can be broken"


@pytest.mark.parametrize("turn", [0, 1])
def test_dlpm_computes_about_what_lpm_does_and_vtc_far_more(tiny, turn):
    found = fairness._shared(tiny, EngineConfig(), THRASHING, turn)
    assert found["dlpm_computed_tokens"] <= 1.15 * found["lpm_computed_tokens"]
    assert found["vtc_computed_tokens"] >= 1.5 * found["dlpm_computed_tokens"]
