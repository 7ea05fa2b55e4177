"""A change of the code that is not meant to change schedules leaves these replays unchanged.

    python tests/properties/test_schedule_replay.py    writes the schedules anew; read the diff

A trace is what arrived when, recorded once; its schedule is which tokens each step computed.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evolute.engine import EngineConfig
from evolute.engine.config import Resolved
from evolute.engine.core import EngineCore
from evolute.engine.execution.sampler import Chosen
from evolute.engine.memory import RadixCache
from evolute.engine.scheduling import read_trace, simulate
from evolute.models.tiny import tiny_tokenizer
from evolute.types import GenerateRequest, SamplingParams

TRACES = sorted((Path(__file__).parents[1] / "golden/schedules").glob("*.trace"))


def replay(trace):
    settings, arrivals = read_trace(trace)
    return simulate(arrivals, settings)


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_a_recorded_trace_gives_the_recorded_schedule(trace):
    assert replay(trace).text() == trace.with_suffix(".schedule").read_text()


def test_the_traces_reach_what_a_schedule_can_do():
    replays = [replay(trace) for trace in TRACES]
    assert any(r.preemptions for r in replays) and any(r.evicted_pages for r in replays)
    assert any(sum(r.cached_tokens) for r in replays) and any(max(r.waited_steps) for r in replays)
    assert max(len(r.cached_tokens) for r in replays) > 128  # longer than LONG_QUEUE


class HashModel:
    """Executor and sampler in one: the next token is the simulator's."""

    def forward(self, batch):
        return np.zeros((len(batch.logit_rows), 1), np.float32)

    def choose(self, logits, indices, rows):
        return [Chosen(hash((*row.prompt, *row.output)) % 1000, 0.0) for row in rows]


def engine_schedule(trace):
    """What the real core computes in each step; its arrivals come at the simulator's steps."""
    limits, arrivals = read_trace(trace)
    config = EngineConfig(
        page_size=limits.page_size,
        token_budget=limits.token_budget,
        max_running=limits.max_running,
        policy=limits.policy,
    )
    config = Resolved(replace(config, context=10**6), limits.num_pages, page_bytes=1)
    model = HashModel()

    class NoGrammars:
        def compile(self, sampling):
            return None

    core = EngineCore(config, model, model, tiny_tokenizer(), NoGrammars(), vocab_size=1000)
    schedule, chunks, work, now = [], [], core._work, 0

    def watched(chunk):
        chunks.append((chunk.sequence.id, chunk.num_tokens))
        return work(chunk)

    core._work = watched
    while now <= arrivals[-1].step or not core.is_idle:
        for one in arrivals:
            if one.step == now:
                sampling = SamplingParams(
                    temperature=0, max_new_tokens=one.max_new_tokens, ignore_eos=True
                )
                core.add(GenerateRequest(one.prompt, sampling), -1, (None, 0, ""))
        chunks.clear()
        core.step()
        schedule += [list(chunks)] if chunks else []
        core.check()
        now += 1
    return schedule, core.counts


@pytest.mark.parametrize("trace", TRACES, ids=lambda path: path.stem)
def test_the_engine_computes_what_the_simulator_says(trace):
    schedule, counts = engine_schedule(trace)
    told = replay(trace)
    assert schedule == told.schedule
    assert (counts.evicted_pages, counts.preemptions) == (told.evicted_pages, told.preemptions)
    assert counts.computed_tokens == told.computed_tokens


def test_a_match_that_outlives_a_split_is_found(monkeypatch):
    split = RadixCache._split

    def forgetful(self, node, keep):
        changes = self.changes
        try:
            return split(self, node, keep)
        finally:
            self.changes = changes

    monkeypatch.setattr(RadixCache, "_split", forgetful)
    with pytest.raises(AssertionError, match="RadixNode"):
        _ = [replay(trace) for trace in TRACES]


if __name__ == "__main__":
    for trace in TRACES:
        trace.with_suffix(".schedule").write_text(replay(trace).text())
