"""Whose first token would be late, by a clock of our own; and in the engine, by its numbers."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evolute.engine import Engine, EngineConfig
from evolute.engine.scheduling import Sequence, make_policy
from evolute.engine.scheduling.deadlines import Deadlines, Overload, Pace, Rate
from evolute.engine.scheduling.policies import PolicySettings
from evolute.models import load_model
from evolute.types import ConfigError, FinishReason, GenerateRequest, RequestError, SamplingParams

TINY = load_model("tiny")
LONG = SamplingParams(temperature=0, max_new_tokens=4000, ignore_eos=True)
SHORT = SamplingParams(temperature=0, max_new_tokens=4, ignore_eos=True)


@given(
    moves=st.lists(
        st.tuples(st.sampled_from(["add", "drop", "look"]), st.integers(0, 5), st.integers(0, 20)),
        max_size=60,
    )
)
def test_those_are_late_who_cannot_be_in_time(moves):
    deadlines, known = Deadlines(), {}
    for now, (what, item, value) in enumerate(moves):
        if what == "add":
            deadlines.add(item, now + value)
            known[item] = now + value
        elif what == "drop":
            deadlines.drop(item)
            known.pop(item, None)
        else:
            late = {i for i, due in known.items() if now + i >= due}  # item i needs i seconds
            assert set(deadlines.late(now, float, 5.0)) == late
            for one in late:
                del known[one]
        assert deadlines.next_due_s() == min(known.values(), default=None)


def test_newest_first_begins_when_more_arrive_than_an_admission_takes():
    overload = Overload()
    assert overload.look(3)  # 2 of late, and 1 was taken at a time
    overload.admitted(10, 0)
    assert overload.admissions == 7 and not overload.look(3)
    assert overload.look(30)


def test_the_pace_is_the_line_that_the_steps_lie_on():
    pace = Pace()
    assert pace.need_s(100, 50) == 0
    for tokens in (1, 200, 64, 500, 3, 120):
        pace.note(0.02 + 0.001 * tokens, tokens)
    assert pace.need_s(100, 50) == pytest.approx(2 * 0.02 + 0.1)
    alike = Pace()
    for _ in range(10):
        alike.note(0.05, 8)
    assert alike.need_s(1000, 500) == pytest.approx(2 * 0.05), "nothing is known of tokens"


def test_a_rate_fades():
    rate = Rate(10.0)
    for second in range(100):
        rate.note(float(second), 3)
    assert rate.per_s(99.0) == pytest.approx(3, rel=0.1)
    assert rate.per_s(199.0) < 0.01


@pytest.mark.parametrize("policy", ["fcfs", "vtc", "priority"])
def test_under_overload_the_newest_goes_first_and_no_kind_starves(policy):
    queue = make_policy(PolicySettings(policy))
    everybody = [Sequence(i, 1, [i], 1, has_deadline=i % 2 == 0) for i in range(6)]
    everybody[0].num_preemptions = 1
    for sequence in everybody:
        queue.push(sequence)
    assert [s.id for s in queue.order(lambda s: 0, [])] == [0, 1, 2, 3, 4, 5]
    queue.newest_first = True
    assert [s.id for s in queue.order(lambda s: 0, [])] == [0, 4, 1, 2, 3, 5]


@pytest.fixture
def engine():
    with Engine(TINY, max_running=1, num_threads=1, policy="fcfs") as engine:
        yield engine


class Ears:
    def __init__(self):
        self.deltas, self.ended = [], threading.Event()

    def __call__(self, delta):
        self.deltas.append(delta)
        if delta.output is not None:
            self.ended.set()


def send(engine, sampling, **settings):
    ears = Ears()
    request = GenerateRequest((1, 2, 3), sampling, **settings)
    engine._loop.call(lambda: engine._loop.add(request, None, ears))
    return ears


def test_who_waits_too_long_is_ended_with_the_numbers_and_the_others_go_on(engine):
    first = send(engine, LONG)
    late, patient = send(engine, SHORT, deadline_s=0.3), send(engine, SHORT)
    free = send(engine, SHORT, deadline_s=0)
    assert late.ended.wait(20)
    (delta,) = late.deltas
    assert delta.output.finish_reason is FinishReason.DEADLINE and not delta.output.token_ids
    assert "within 0.3 s" in delta.output.error and "3 outputs waiting" in delta.output.error
    assert 1 <= delta.output.retry_after_s <= 60
    assert not patient.ended.is_set() and not free.ended.is_set()
    engine.abort_all()
    assert first.ended.wait(20)
    assert engine.stats().counts.late == 1
    assert [v.finish_reason for v in engine.recent()].count("deadline") == 1
    engine.check()


def test_who_began_is_never_ended(engine):
    running = send(engine, LONG, deadline_s=0.2)
    while not running.deltas:
        threading.Event().wait(0.01)
    assert not running.ended.wait(0.5)
    engine.abort_all()
    assert running.ended.wait(20)
    assert running.deltas[-1].output.finish_reason is FinishReason.ABORT


def test_all_outputs_of_a_request_go_together_or_none(engine):
    """One of two runs: the other may still come, however late."""
    two = SamplingParams(temperature=0, max_new_tokens=4000, ignore_eos=True, n=2)
    ears = send(engine, two, deadline_s=0.2)
    assert not ears.ended.wait(0.5)
    engine.abort_all()
    other = send(engine, LONG)
    pair = send(engine, two, deadline_s=0.2)
    assert pair.ended.wait(20)
    engine._loop.call(lambda: None)
    assert [d.output.finish_reason for d in pair.deltas] == [FinishReason.DEADLINE] * 2
    engine.abort_all()
    assert other.ended.wait(20)


def test_an_engine_that_is_paused_keeps_deadlines_too(engine):
    engine.pause()
    late = send(engine, SHORT, deadline_s=0.1)
    assert late.ended.wait(20)
    engine.resume()
    assert engine.generate([1, 2], SHORT)[0].finish_reason is FinishReason.LENGTH


def test_the_engine_s_setting_holds_for_all_and_can_change_live(engine):
    first = send(engine, LONG)
    engine.apply_settings(first_token_deadline_s=0.2)
    late = send(engine, SHORT)
    assert late.ended.wait(20)
    engine.apply_settings(first_token_deadline_s=0)
    assert not send(engine, SHORT).ended.wait(0.4)
    engine.abort_all()
    assert first.ended.wait(20)


def test_a_wrong_estimate_turns_nobody_away_from_an_idle_engine(engine):
    """Steps seem to take an hour; half of the time must still pass before anybody is ended."""
    for tokens in (1, 100, 7):
        engine._loop.early._pace.note(3600.0, tokens)
    assert engine.generate([1, 2, 3], SHORT)[0].finish_reason is FinishReason.LENGTH
    request = GenerateRequest((1, 2, 3), SHORT, deadline_s=20.0)
    (output,) = asyncio.run(engine.agenerate(request))
    assert output.finish_reason is FinishReason.LENGTH


def test_without_deadlines_nothing_is_looked_at(engine, monkeypatch):
    monkeypatch.setattr(engine._loop.early, "_deadlines", None)
    assert engine.generate([1, 2, 3], SHORT)[0].finish_reason is FinishReason.LENGTH
    assert not engine._core.queue.newest_first


@pytest.mark.parametrize("value", [-1.0, float("nan"), 1e9])
def test_a_deadline_that_is_none_is_refused(engine, value):
    with pytest.raises(RequestError, match="deadline_s"):
        asyncio.run(engine.agenerate(GenerateRequest((1,), SHORT, deadline_s=value)))
    with pytest.raises(ConfigError, match="first_token_deadline_s"):
        EngineConfig(first_token_deadline_s=value)


@pytest.mark.parametrize("policy", ["vtc", "priority"])
def test_clusters_are_refused_where_the_first_is_never_passed(policy):
    with pytest.raises(ConfigError, match="adapter_cluster"):
        EngineConfig(policy=policy, adapter_cluster=4)
