"""A replay counts exactly, times sensibly, and shows whether the answers are the same."""

import json

import pytest

from evolute.bench import make_workload, replay, run_bench
from evolute.bench.replay import percentile
from evolute.bench.result import digest_of, one_digest
from evolute.engine import EngineConfig
from evolute.models import load_model
from evolute.types import ConfigError

TINY = EngineConfig(memory_mb=8, num_threads=1, page_size=4)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


@pytest.fixture(scope="module")
def items(tiny):
    return make_workload("shared", tiny.config.vocab_size, scale=0.1)


@pytest.fixture(scope="module")
def plain(tiny, items):
    return replay(tiny, items, TINY, repeats=2)


def test_every_token_asked_for_is_made_and_counted(plain, items):
    assert plain.figures["output_tokens"] == sum(item.max_new_tokens for item in items)
    assert plain.n == 2
    low, high = plain.spread["seconds"]
    assert 0 < low <= plain.figures["seconds"] <= high


def test_each_repeat_starts_with_an_empty_cache(plain):
    low, high = plain.spread["computed_tokens"]
    assert low == high


def test_computed_and_cached_tokens_are_the_prompts_and_the_outputs(plain, items):
    prompts = sum(len(item.prompt) for item in items)
    made = plain.figures["output_tokens"]
    total = plain.figures["computed_tokens"] + plain.figures["cached_tokens"]
    assert total == prompts + made - len(items)  # a last token is never computed


def test_the_cache_changes_the_work_and_not_the_answers(tiny, items, plain):
    off = replay(tiny, items, EngineConfig(memory_mb=8, num_threads=1, prefix_cache=False))
    assert off.digest == plain.digest
    assert off.figures["cached_tokens"] == 0


def test_other_prompts_have_another_digest(tiny, plain):
    other = make_workload("shared", tiny.config.vocab_size, scale=0.1, seed=1)
    assert replay(tiny, other, TINY).digest != plain.digest


def test_a_paced_replay_gives_the_same_answers_and_latencies(tiny, items, plain):
    paced = replay(tiny, items, TINY, paced=True)
    assert paced.digest == plain.digest
    figures = paced.figures
    assert 0 < figures["ttft_p50_s"] <= figures["ttft_p99_s"] <= figures["latency_p99_s"]
    assert figures["latency_p99_s"] <= figures["seconds"]


def test_a_paced_replay_waits_for_the_arrivals(tiny):
    items = make_workload("arrivals", tiny.config.vocab_size, scale=0.05)
    assert replay(tiny, items, TINY, paced=True).figures["seconds"] >= items[-1].arrival_s


def test_the_result_is_one_json_object(plain):
    value = json.loads(plain.to_json())
    assert value["figures"] == plain.figures
    assert {"name", "config", "n", "spread", "digest", "machine", "commit"} <= set(value)
    assert int(value["machine"]["cores"]) >= 1
    assert value["config"]["page_size"] == 4


def test_the_serving_bench_names_its_figures_by_workload(tiny):
    result = run_bench("serving", quick=True, model=tiny, config=TINY)
    for shape in ("batch", "shared", "single"):
        assert result.figures[f"{shape}/output_tokens_per_s"] > 0
    assert result.figures["arrivals/ttft_p50_s"] > 0


@pytest.mark.slow
def test_the_training_bench_trains_every_sampled_token(tiny):
    result = run_bench("training", quick=True, model=tiny, config=TINY)
    assert result.figures["trained_tokens"] == 2 * 2 * 64
    assert result.figures["update_s"] > 0


def test_an_unknown_bench_names_the_nearest():
    with pytest.raises(ConfigError, match="'serving'"):
        run_bench("servign")


@pytest.mark.parametrize(
    ("part", "expected"), [(0.01, 1), (0.5, 5), (0.51, 6), (0.99, 10), (1.0, 10)]
)
def test_a_percentile_is_one_of_the_values(part, expected):
    assert percentile([10, 9, 8, 7, 6, 5, 4, 3, 2, 1], part) == expected


def test_a_digest_depends_on_tokens_and_not_on_the_order_of_arrival():
    assert digest_of([("b", [2]), ("a", [1])]) == digest_of([("a", (1,)), ("b", (2,))])
    assert digest_of([("a", [1])]) != digest_of([("a", [2])])
    assert digest_of([("a", [1, 2]), ("b", [])]) != digest_of([("a", [1]), ("b", [2])])


def test_unstable_answers_equal_no_other_unstable_answers():
    assert one_digest(["x", "x"]) == "x"
    assert one_digest(["x", "y"]) != one_digest(["x", "z"])
    assert one_digest(["x", "y"]).startswith("unstable")
