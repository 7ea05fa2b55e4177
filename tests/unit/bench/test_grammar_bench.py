"""The bench of forced tokens compares the same answers and counts passes."""

import pytest

from evolute.bench import run_bench
from evolute.engine import EngineConfig

LEAST = {"character": 1.6, "schema": 1.1, "open": 0.99}  # `tiny` fills strings with noise


def test_each_grammar_is_measured_with_and_without_jump_forward():
    config = EngineConfig(memory_mb=8, num_threads=1, page_size=4)
    result = run_bench("grammar", quick=True, model="tiny", config=config)
    assert result.notes == () and result.n == 1 and len(result.digest) == 64
    for kind in ("character", "schema", "open"):
        for how in ("alone", "batch"):
            found = {
                name.rsplit("/", 1)[1]: value
                for name, value in result.figures.items()
                if name.startswith(f"{kind}/{how}/")
            }
            assert found["fewer"] == found["plain_steps"] / found["steps"]
            assert found["ratio"] == pytest.approx(found["plain_seconds"] / found["seconds"])
            assert (found["forced_frac"] > 0.1) == (kind != "open")
            if how == "alone":
                assert found["fewer"] > LEAST[kind]
