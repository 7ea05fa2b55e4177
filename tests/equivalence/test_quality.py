"""What the fast forms of the weights cost in quality, on a fixed piece of this repository's
own English."""

import math
from pathlib import Path

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.types import SamplingParams

PROSE = Path(__file__).parents[1] / "golden/prose.txt"
SCORE = SamplingParams(max_new_tokens=0, prompt_logprobs=True)
WINDOW, WINDOWS = 512, 16


@pytest.fixture(scope="module")
def windows():
    ids = load_model("smollm2-135m").tokenizer.encode(PROSE.read_text())
    step = (len(ids) - WINDOW) // (WINDOWS - 1)
    return [ids[i * step : i * step + WINDOW] for i in range(WINDOWS)]


def log_perplexity(windows, precision):
    with Engine("smollm2-135m", precision=precision, memory_mb=512) as engine:
        outputs = engine.generate(windows, SCORE)
    logprobs = [x for output in outputs for x in output.prompt_logprobs[1:]]
    return -sum(logprobs) / len(logprobs)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_perplexity_stays_within_a_hundredth_of_float32(windows):
    exact = log_perplexity(windows, "float32")
    for precision in ("quantized", "int8"):
        ratio = math.exp(log_perplexity(windows, precision) - exact)
        print(f"{precision}: perplexity {math.exp(exact):.2f}, times {ratio:.4f}")
        assert ratio <= 1.01
