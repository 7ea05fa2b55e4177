"""The adapter bench measures what it says: the same answers, real baselines, exact counts."""

import math

import pytest

from evolute.bench import run_bench
from evolute.bench.adapter_work import StaticPlacement, Tenants, make_work
from evolute.bench.adapters import SECTIONS
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
