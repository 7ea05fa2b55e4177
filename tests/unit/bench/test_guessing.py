"""The bench of guesses compares the same answers and counts what was accepted."""

import pytest

from evolute.bench import run_bench
from evolute.engine import EngineConfig


def test_each_kind_is_measured_with_and_without_guesses():
    config = EngineConfig(memory_mb=8, num_threads=1, page_size=4, ngram_min=1)
    result = run_bench("speculation", quick=True, model="tiny", config=config)
    assert result.notes == () and result.n == 1 and len(result.digest) == 64
    for kind in ("copying", "greedy", "sampled"):
        found = {k.split("/")[1]: v for k, v in result.figures.items() if k.startswith(kind)}
        assert 1 <= found["tokens_per_step"] <= 5
        assert 0 <= found["accepted_frac"] <= 1
        assert found["ratio"] == pytest.approx(found["plain_seconds"] / found["seconds"])
    assert any(result.figures[f"{kind}/drafted_tokens"] for kind in ("copying", "greedy"))
