"""Settings at the edge of what numbers can be are served as they are meant."""

import pytest

from evolute.engine import Engine
from evolute.models import load_model
from evolute.types import SamplingParams

TINY = load_model("tiny")
PROMPT = [65, 66, 67] * 3
EXTREMES = [
    {"repetition_penalty": 5e-324},
    {"repetition_penalty": 1e-40},
    {"repetition_penalty": 5e-324, "logit_bias": {65: 1e9}},
    {"logit_bias": {66: 1e9}},
    {"logit_bias": {65: float("-inf")}},
    {"logit_bias": dict.fromkeys(range(259), -1e9)},
    {"top_p": 5e-324},
    {"min_p": 1.0},
    {"temperature": 1e-5},
    {"temperature": 100.0, "top_p": 1e-9},
]


@pytest.fixture(scope="module", params=["native", "plain"])
def engine(request):
    with Engine(TINY, sampler=request.param, memory_mb=4) as engine:
        yield engine


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("extreme", EXTREMES, ids=lambda e: "-".join(e))
def test_every_answer_comes_to_its_end(engine, extreme, temperature):
    settings = {"temperature": temperature, "max_new_tokens": 4, "ignore_eos": True, "seed": 1}
    (output,) = engine.generate([PROMPT], SamplingParams(**(settings | extreme)))
    assert (output.finish_reason, len(output.token_ids)) == ("length", 4), output.error


def test_a_huge_bias_decides(engine):
    for bias, expected in (({66: 1e9}, 66), ({66: 1e9, 65: 1e8}, 66)):
        sampling = SamplingParams(max_new_tokens=3, ignore_eos=True, logit_bias=bias, seed=3)
        (output,) = engine.generate([PROMPT], sampling)
        assert output.token_ids == (expected,) * 3
