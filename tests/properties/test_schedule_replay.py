"""A change of the code that is not meant to change schedules leaves these replays unchanged.

    python tests/properties/test_schedule_replay.py    writes the schedules anew; read the diff

A trace is what arrived when, recorded once; its schedule is which tokens each step computed.
"""

from pathlib import Path

import pytest

from evolute.engine.scheduling import read_trace, simulate

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


if __name__ == "__main__":
    for trace in TRACES:
        trace.with_suffix(".schedule").write_text(replay(trace).text())
