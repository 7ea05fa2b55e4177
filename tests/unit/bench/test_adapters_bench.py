"""The adapter bench measures what it says: the same answers, real baselines, exact counts."""

import math

import pytest
import torch

from evolute.bench import run_bench
from evolute.bench.adapter_work import (
    ATTENTION,
    PaddedProducts,
    StaticPlacement,
    Tenants,
    make_work,
    poisson,
)
from evolute.bench.adapters import QUICK, SECTIONS, Setting
from evolute.engine import EngineConfig
from evolute.models import load_model

CONFIG = EngineConfig(memory_mb=1, num_threads=1, policy="fcfs", max_running=6)


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_every_section_tells_its_figures(tiny):
    result = run_bench("adapters", quick=True, model=tiny, config=EngineConfig(memory_mb=8))
    rooms = {name.split("/")[0] for name in result.figures}
    assert rooms == set(SECTIONS) and result.n == 1
    assert result.figures.keys() == result.spread.keys()
    assert all(math.isfinite(value) for value in result.figures.values())
    assert ("prefetch/hidden_frac_with_start" in result.figures) == (
        result.figures["prefetch/loads"] > 0
    )
    # 24 adapters of rank 8: 8 * (2 * 64 + 2 * 96 + 64 + 64) floats of four modules, two layers
    assert result.figures["thousand/host_mb"] == pytest.approx(24 * 8 * 448 * 2 * 4 / 2**20)


def test_a_static_split_serves_the_same_and_keeps_to_its_part(tiny):
    ranks = [40, 60, 80, 30]
    work = make_work([i % 4 for i in range(12)], 20, 6, tiny.config.vocab_size)
    one, split = (Tenants(tiny, CONFIG, ranks) for _ in range(2))
    placement = split.core.placement = StaticPlacement(split.core.placement, 48)
    part, seen = set(placement._spare), []
    step = split.core.step

    def watched():
        events = step()
        own = {p for s in placement.running for p in s.pages}
        seen.append(len(placement.adapters.pages()))
        assert set(placement.adapters.pages()) | set(placement._spare) == part
        assert not own & part
        return events

    split.core.step = watched
    sizes = [one.core.placement.adapters.size(i) for i in range(4)]
    assert sizes == [18, 27, 35, 14]  # no two of the larger ones fit in 48
    ours, theirs = one.run(work, 12), split.run(work, 12)
    assert ours.outputs == theirs.outputs and ours.output_tokens == 12 * 6
    assert max(seen) <= 48 and len(seen) > 6
    assert split.core.placement.adapters.num_evicted > 0
    one.core.check()


def test_groups_alternate_and_leave_nothing_behind(tiny):
    tenants = Tenants(tiny, CONFIG, [4, 8])
    vocab = tiny.config.vocab_size
    groups = {"base": make_work([None] * 2, 9, 4, vocab), "two": make_work([0, 1], 9, 4, vocab)}
    for prompts in (False, True):
        took = tenants.alternate(groups, 3, prompts=prompts)
        assert {name: len(seconds) for name, seconds in took.items()} == {"base": 3, "two": 3}
        assert tenants.core.is_idle
        tenants.core.check()


def test_padded_products_are_the_products(tiny):
    lengths = [4, 1, 6]
    padded = PaddedProducts(tiny, [2, 5, 3], lengths, ATTENTION)
    expected = []
    for pairs, x, y in padded.modules:
        parts = [part @ a.T @ b for part, (a, b) in zip(x.split(lengths), pairs)]
        expected.append(y + tiny.config.num_layers * torch.cat(parts))
    padded.run()
    for (_, _, y), wanted in zip(padded.modules, expected):
        assert torch.allclose(y, wanted, rtol=1e-4, atol=1e-3)


def test_what_arrives_is_served_as_what_is_sent_at_once(tiny):
    tenants = Tenants(tiny, CONFIG, [4, 8])
    work, arrivals = make_work([0, 1, None, 1], 9, 4, tiny.config.vocab_size), poisson(40, 4)
    assert arrivals == sorted(arrivals) and arrivals[0] > 0
    came = tenants.run_arriving(work, arrivals)
    assert came.outputs == tenants.run(work, 4).outputs
    assert came.seconds >= arrivals[-1] and came.first_token_s > 0


@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_pages_of_an_adapter_are_those_it_gets(tiny, dtype):
    setting = Setting(tiny, EngineConfig(memory_mb=8, kv_dtype=dtype), QUICK)
    tenants = setting.tenants([40])
    assert tenants.core.placement.adapters.size(0) == setting.pages_of(40)
