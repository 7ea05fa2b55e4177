import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from evolute.agents.dispatcher import DispatchConfig
from evolute.agents.simulation import SharedMachine, SimulationConfig, compare, draw_work, table
from evolute.agents.simulation.compare import num_runs, schedules
from evolute.agents.simulation.settings import MachineConfig, WorkConfig
from evolute.cli.simulate import KINDS
from evolute.telemetry.virtual_time import run_virtual
from evolute.types import ConfigError
from evolute.types.settings import load

RECIPE = Path(__file__).parents[3] / "recipes" / "simulate" / "dispatch.toml"
SMALL = WorkConfig(rollouts=96, group=8)
EXACT = WorkConfig(
    rollouts=200,
    group=8,
    init_s=10,
    eval_s=20,
    turns=10,
    turn_tokens=60,
    tool_s=0,
    sigma=0,
    turn_sigma=0,
)
QUARTER = MachineConfig(tokens_per_s=1500.0, cpu_slots=24)
FREE = MachineConfig(tokens_per_s=1e9, request_tokens_per_s=60, cpu_slots=10_000)


def served(rate, full, jobs, max_jobs=0):
    """(arrival, units) of each job -> when it was done, and the busy seconds."""

    async def main():
        machine, loop = SharedMachine(rate, full, max_jobs), asyncio.get_running_loop()

        async def one(arrives_s, units):
            await asyncio.sleep(arrives_s)
            await machine.work(units)
            return round(loop.time(), 6)

        ends = await asyncio.gather(*(one(*job) for job in jobs))
        return ends, round(machine.busy_s(), 6)

    return run_virtual(main())


def shared(count):
    return min(1.0, 2 / count)  # two jobs at full speed; more share


def test_processor_sharing_is_exact():
    assert served(shared, 2, [(0, 3)]) == ([3], 1.5)
    assert served(shared, 2, [(0, 3), (0, 3)]) == ([3, 3], 3)
    # three at 2/3: at 3 s each has had 2; the first is done with its 2, then two at full speed
    assert served(shared, 2, [(0, 2), (0, 4), (0, 4)]) == ([3, 5, 5], 5)
    # alone for 1 s, three until ...
    assert served(shared, 2, [(0, 3), (1, 2), (1, 2)])[0] == [4, 4, 4]


def test_no_more_jobs_than_fit():
    assert served(lambda count: 1.0, 1, [(0, 2), (0, 2), (0, 2)], max_jobs=1)[0] == [2, 4, 6]


def test_a_cancelled_job_frees_the_machine():
    async def main():
        machine, loop = SharedMachine(lambda n: 1 / n, 1), asyncio.get_running_loop()
        first = asyncio.create_task(machine.work(10))
        second = asyncio.create_task(machine.work(4))
        await asyncio.sleep(2)
        first.cancel()
        await second
        return loop.time()

    assert run_virtual(main()) == pytest.approx(5)  # 1 of 4 by then, 3 more alone


def test_draws_are_the_same_for_a_seed_and_heavy_tailed():
    work = draw_work(WorkConfig(), 0)
    assert work == draw_work(WorkConfig(), 0) != draw_work(WorkConfig(), 1)
    init = sorted(one.init_s for one in work)
    assert 50 < init[256] < 70 and init[-5] > 3 * init[256]
    assert max(len(one.turns) for one in work) == 50
    failing = draw_work(replace(SMALL, failure_frac=0.5), 0)
    assert 30 < sum(one.init_failures > 0 for one in failing) < 66


def check_table(found, rollouts, cap):
    rows = {row.schedule: row for row in found.rows}
    assert all(row.done == rollouts and row.failed == 0 for row in found.rows)
    assert found.ratio >= 1.5
    assert 0.95 <= found.ratio_equal_live <= 1.05
    bounded, pipeline = rows[f"bounded batch {cap}"], rows[f"pipeline {cap}, no queue limit"]
    capped = rows[f"pipeline {cap}, live {2 * cap}"]
    assert rows["all at once"].peak_live == rollouts and bounded.peak_live == cap
    assert capped.peak_live == 2 * cap
    assert pipeline.makespan_s <= capped.makespan_s < bounded.makespan_s / 1.3
    assert pipeline.gpu_busy / bounded.gpu_busy == pytest.approx(found.ratio, rel=0.02)
    assert rows["all at once"].makespan_s > pipeline.makespan_s  # the CPU thrashes
    for row in found.rows:
        assert row.makespan_s >= row.bound_s * 0.999
        assert len(row.timeline) == 20
        assert sum(row.timeline) / 20 == pytest.approx(row.gpu_busy, abs=0.1)
    assert f"pipeline {cap}, live {2 * cap}" in table(found)


def test_the_table_of_a_quarter_of_everything():
    work = replace(WorkConfig(), rollouts=128)
    config = SimulationConfig(seeds=1, cap=24, live_cap=48, work=work, machine=QUARTER)
    check_table(compare(config), 128, 24)


@pytest.mark.slow
def test_the_table_of_the_recipe():
    config = load(SimulationConfig, files=[RECIPE], overrides=[])
    assert (config.work, config.machine) == (WorkConfig(), MachineConfig())
    check_table(compare(config), 512, 96)


def test_short_starts_and_gradings_leave_little_to_gain():
    work = replace(SMALL, init_s=3.0, eval_s=5.0)
    config = SimulationConfig(seeds=1, cap=24, live_cap=48, work=work, machine=QUARTER)
    assert 0.95 < compare(config).ratio < 1.1


def test_the_gain_rises_with_the_share_of_starting_and_grading():
    config = SimulationConfig(
        seeds=1, cap=24, live_cap=48, work=SMALL, machine=QUARTER, sweep=(0.0, 1.0)
    )
    told = []
    found = compare(config, told.append)
    ratios = [ratio for _, ratio in found.sweep]
    assert ratios == sorted(ratios) and ratios[0] == pytest.approx(1.0, abs=0.02)
    assert told == list(range(1, num_runs(config) + 1))


@pytest.mark.parametrize("cap", [5, 20])
def test_without_variance_the_makespan_is_the_bound(cap):
    """bounded: P / E[I+R+E]; pipeline: the slowest stage; their ratio (I+R+E) / max stage."""
    config = SimulationConfig(seeds=1, cap=cap, live_cap=2 * cap, work=EXACT, machine=FREE)
    found = compare(config)
    rows = {row.schedule: row for row in found.rows}
    for name in (f"bounded batch {cap}", f"pipeline {cap}, live {cap}"):
        assert rows[name].makespan_s == pytest.approx(EXACT.rollouts / cap * 40, rel=1e-6)
    pipeline = rows[f"pipeline {cap}, no queue limit"]
    assert pipeline.makespan_s == pytest.approx(
        EXACT.rollouts / cap * 20 + 20, rel=1e-6
    )  # and its fill
    assert found.ratio == pytest.approx(40 / 20, rel=0.11)
    assert pipeline.bound_s == pytest.approx(EXACT.rollouts / cap * 20)


def test_failures_are_tried_again_and_counted():
    config = SimulationConfig(
        seeds=1, cap=16, live_cap=32, work=replace(SMALL, rollouts=48, failure_frac=0.3)
    )
    for row in compare(config).rows:
        assert row.done + row.failed == 48 and 0 < row.failed < 12


def test_a_schedule_of_ones_own_is_one_more_row():
    config = SimulationConfig(dispatch=DispatchConfig(max_run=7))
    assert len(schedules(config)) == len(schedules(SimulationConfig())) + 1
    assert schedules(config)["as in [dispatch]"].max_run == 7


@pytest.mark.parametrize(
    "given",
    [
        {"kind": "rl"},
        {"seeds": 0},
        {"sweep": (-1.0,)},
        {"work": {"turns": 0}},
        {"work": {"failure_frac": 1.0}},
        {"machine": {"cpu_slots": 0}},
        {"machine": {"tokens_per_s": 0.0}},
    ],
)
def test_settings_that_cannot_be_are_refused(given):
    with pytest.raises(ConfigError):
        load(SimulationConfig, files=[], overrides=[f"{k}={json.dumps(v)}" for k, v in flat(given)])


def flat(values):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", each) for inner, each in value.items())
        else:
            yield key, list(value) if isinstance(value, tuple) else value


def test_the_kind_is_known_to_the_verb():
    assert "dispatch" in KINDS
