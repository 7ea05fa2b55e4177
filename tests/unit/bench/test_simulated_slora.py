"""The simulator gives S-LoRA's published rows, and its loop keeps the rules it was built on."""

import dataclasses

import numpy as np
import pytest

from evolute.bench.simulated import (
    HARDWARE,
    Request,
    gamma_trace,
    simulate,
    with_static_pool,
)
from evolute.bench.simulated.tables import (
    ADMISSION,
    ATTAINMENT,
    CVS,
    LARGE,
    LARGE_13B,
    LOADS,
    S2,
    SMALL,
    THROUGHPUT,
    Row,
    reproduce,
)

HELD = [row for row in THROUGHPUT if row.status != "missed"]
FAST = [row for row in HELD if row.hardware == SMALL or row.num_adapters in (2, 200)]


@pytest.mark.parametrize("row", FAST, ids=lambda row: row.name)
def test_throughput_is_within_a_tenth_of_the_published(row):
    within = 0.15 if row.variant == "static" else 0.10
    assert reproduce(row).requests_per_s == pytest.approx(row.published, rel=within)


@pytest.mark.slow
@pytest.mark.parametrize("row", HELD, ids=lambda row: row.name)
def test_every_row_that_is_not_told_as_missed_is_reproduced(row):
    within = 0.15 if row.variant == "static" else 0.10
    assert reproduce(row).requests_per_s == pytest.approx(row.published, rel=within)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [row for row in THROUGHPUT if row.status == "missed"], ids=lambda row: row.name
)
def test_a_missed_row_is_still_missed(row):
    """Once it is not, it must be told so."""
    within = 0.15 if row.variant == "static" else 0.10
    assert reproduce(row).requests_per_s != pytest.approx(row.published, rel=within)


def attainment(machine, policy, cv):
    (ranks, count, rate) = LOADS[machine]
    return reproduce(Row(machine, ranks, count, rate, 300, 0.0, policy=policy, cv=cv)).attainment


@pytest.mark.parametrize("row", [r for r in ADMISSION if r.hardware == SMALL], ids=lambda r: r.name)
def test_attainment_is_near_the_artifact_s(row):
    assert reproduce(row).attainment == pytest.approx(row.published, abs=0.04)


@pytest.mark.slow
@pytest.mark.parametrize(
    "row", [r for r in ADMISSION if r.hardware == LARGE_13B], ids=lambda r: r.name
)
def test_attainment_of_the_larger_model_is_near_the_artifact_s(row):
    """No constant of it was fitted. `abort` at cv 8 does better than the artifact."""
    found = reproduce(row).attainment
    assert row.published - 0.04 < found < row.published + (0.1 if row.cv == 8 else 0.04)


def test_dropping_the_late_and_small_areas_first_beat_the_paper_s_admission():
    for cv, abort, target in zip(CVS, ATTAINMENT[SMALL]["abort"], (0.88, 0.84, 0.79, 0.76, 0.73)):
        area = attainment(SMALL, "area", cv)
        assert area >= target and area > abort
        ours = attainment(SMALL, "abort", cv)
        assert ours > attainment(SMALL, "lifo", cv) and ours > attainment(SMALL, "fcfs", cv)


def test_first_tokens_of_the_saturated_a10g_come_as_late_as_published():
    report = reproduce(next(r for r in THROUGHPUT if r.published == 1.576))
    assert report.first_token_s == pytest.approx(23.6, rel=0.1)
    static = reproduce(next(r for r in THROUGHPUT if r.published == 1.194))
    assert static.first_token_s == pytest.approx(82.6, rel=0.15)
    assert static.first_token_s > 2.5 * report.first_token_s


def test_better_kernels_reach_what_their_constants_promise():
    base = reproduce(Row(LARGE, S2, 0, 10, 300, 0.0)).requests_per_s
    for count, least in ((1, 0.95 * base), (200, 8.7), (2000, 8.3)):
        row = Row(LARGE, S2, count, 10, 300, 0.0, "better")
        assert reproduce(row).requests_per_s >= least


def test_clustering_gains_throughput_and_loses_no_attainment():
    """The card hopes for 4 % at d = 8; the simulator gives 3 %."""
    trace = {d: gamma_trace(32, 2, 300, ranks=S2) for d in (8, 32)}
    few, many = (simulate(trace[d], HARDWARE[SMALL], f"cluster{d}") for d in (8, 32))
    assert few.requests_per_s > 1.025 * many.requests_per_s
    assert few.attainment >= many.attainment


# -- the rules -----------------------------------------------------------------


def test_a_trace_is_the_artifact_s_to_the_bit():
    """The first draws of numpy's old generator, in the artifact's order."""
    trace = gamma_trace(200, 2, 300, ranks=S2, skew=0.3, cv=4)
    dice = np.random.RandomState(42)
    adapters = np.floor(dice.power(0.3, 600) * 200).astype(int)
    prompts, outputs = dice.randint(8, 512, 600), dice.randint(8, 512, 600)
    assert [r.adapter for r in trace] == adapters.tolist()
    assert [r.prompt for r in trace] == prompts.tolist()
    assert [r.output for r in trace] == outputs.tolist()
    assert [r.rank for r in trace] == [S2[a % 4] for a in adapters]
    gaps = np.diff([r.arrival_s for r in trace])
    assert np.mean(gaps) == pytest.approx(0.5, rel=0.35) and np.std(gaps) > 3 * np.mean(gaps)


@pytest.mark.parametrize("policy", ["fcfs", "lifo", "cluster2"])
def test_without_dropping_everybody_is_served(policy):
    trace = gamma_trace(20, 3, 60, ranks=S2)
    report = simulate(trace, HARDWARE[SMALL], policy)
    assert all(request.made == request.output for request in trace)
    assert all(r.latency_s >= r.first_token_s > 0 for r in trace)
    assert report.loads >= 20


def test_the_pool_is_never_overfull():
    hardware, seen = HARDWARE[SMALL], []

    class Watched(type(hardware)):
        def decode_s(self, batch, context, ranks, distinct):
            cells = distinct / self.adapter_bytes(1) * 4
            seen.append(context + cells)
            return super().decode_s(batch, context, ranks, distinct)

    fields = {f.name: getattr(hardware, f.name) for f in dataclasses.fields(hardware)}
    simulate(gamma_trace(50, 4, 60, ranks=S2), Watched(**fields))
    assert 0.8 * hardware.pool_tokens < max(seen) <= hardware.pool_tokens


def test_a_static_part_holds_no_more_adapters_than_fit():
    tight = dataclasses.replace(with_static_pool(HARDWARE[SMALL], 50, S2), static_cells=300)
    trace = [Request(0.0, i, 64, 10, 20) for i in range(3)]  # 256 cells each
    report = simulate(trace, tight)
    firsts = sorted(request.first_token_s for request in trace)
    assert report.loads == 3 and firsts[1] > firsts[0] + 10 * 0.0355
