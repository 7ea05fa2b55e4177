"""Short searches: nothing is tried twice, nothing is left out, a bad start becomes a good one."""

import asyncio
import dataclasses
import random

import pytest

from evolute.engine import EngineConfig
from evolute.envs.tuning import Judge, Measurement, Ratio, Verdict, engine_space
from evolute.evolve import Ledger, OptunaProposer, RandomProposer, Trial, tune
from evolute.evolve.history import best, points

BAD = dataclasses.asdict(EngineConfig(max_running=1, prefix_cache=False))
BOTH = pytest.mark.parametrize("proposer", [RandomProposer, OptunaProposer])


class Machine:
    """A model of a server: what a change does to its speed, with some weather."""

    def __init__(self, seed):
        self.source = random.Random(seed)

    async def measure(self, change):
        now = {**BAD, **change}
        speed = min(now["max_running"], 16) ** 0.5
        speed *= 1.8 if now["prefix_cache"] and now["page_size"] <= 8 else 1.0
        speed *= 0.6 if now["num_threads"] == 1 else 1.0
        speed *= 0.7 if now["token_budget"] < 256 else 1.0
        return Measurement(100 * speed * self.source.lognormvariate(0, 0.02), "same")


def search(folder, proposer, seed, trials=12):
    workload = folder / "workload.jsonl"
    workload.write_text("")
    ledger = Ledger(folder / f"{seed}.jsonl")
    judge, space = Judge(Machine(seed), workload), engine_space(BAD)
    report = asyncio.run(tune(space, judge, [proposer(seed)], ledger, max_trials=trials))
    return report, ledger


@BOTH
def test_a_bad_start_becomes_three_times_as_fast(tmp_path, proposer):
    gains = [search(tmp_path, proposer, seed)[0].ratio for seed in range(20)]
    assert sum(gain is not None and gain.mean >= 3 for gain in gains) >= 17


@BOTH
def test_nothing_is_tried_twice(tmp_path, proposer):
    _, ledger = search(tmp_path, proposer, 0, trials=25)
    space = engine_space(BAD)
    tried = [space.settings(point.change) for point in points(ledger.trials)]
    assert all(one not in tried[:i] for i, one in enumerate(tried))


@BOTH
def test_a_search_that_was_cut_goes_on_where_it_was(tmp_path, proposer):
    (tmp_path / "cut").mkdir()
    search(tmp_path / "cut", proposer, 3, trials=4)
    _, cut = search(tmp_path / "cut", proposer, 3, trials=5)
    _, whole = search(tmp_path, proposer, 3, trials=5)
    assert [t.change for t in cut.trials] == [t.change for t in whole.trials]


def test_random_moves_leave_no_dimension_out(tmp_path):
    _, ledger = search(tmp_path, RandomProposer, 5, trials=6)
    moved = {name for trial in ledger.trials for name in trial.change}
    assert moved == {d.name for d in engine_space().dimensions}


def test_speeds_are_products_along_the_way():
    def trial(number, change, verdict, ratio):
        return Trial(number, 0, "x", change, "j", verdict, "", ratio and Ratio(ratio, 1, 1, 3))

    history = [
        trial(0, {}, Verdict.KEEP, None),
        trial(1, {"a": 1}, Verdict.KEEP, 2.0),
        trial(2, {"b": 1}, Verdict.DISCARD, 0.5),
        trial(3, {"b": 2}, Verdict.CHEAT, None),
        trial(4, {"a": 2}, Verdict.KEEP, 3.0),
    ]
    assert [(dict(p.change), p.speed) for p in points(history)] == [
        ({}, 1.0),
        ({"a": 1}, 2.0),
        ({"a": 1, "b": 1}, 1.0),
        ({"a": 1, "b": 2}, 0.0),
        ({"a": 2}, 6.0),
    ]
    assert best(history) == ({"a": 2}, 4)


def test_what_is_open_gives_each_value_its_turn():
    space, source, tried = engine_space(BAD), random.Random(0), []
    for _ in range(8):
        tried.append(space.open(tried).draw(source))
    for dimension in space.dimensions:
        counts = [sum(t[dimension.name] == v for t in tried) for v in dimension.choices]
        assert max(counts) - min(counts) <= 1
