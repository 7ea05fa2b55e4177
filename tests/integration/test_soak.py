"""Everything at once on a server of its own; gates on counts only. A quarter of a minute here, a
whole one with the slow tests, an hour by `evolute bench soak`."""

import asyncio

import pytest

from evolute.bench import soak
from evolute.bench.load.connection import Connections
from evolute.bench.load.fake import FakeServer, Reply
from evolute.bench.soak import drift, spread
from evolute.bench.soak_traffic import SoakPlan, Traffic


# what it looks for comes with time, hence seconds and not requests
@pytest.mark.timeout(240)
@pytest.mark.parametrize("seconds", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_a_server_stays_whole(seconds):
    figures = soak.run(True, model="tiny", minutes=seconds / 60, seed=seconds).figures
    assert figures["errors"] == 0
    clients = ("completion", "chat", "stream", "batch", "samples", "grammar", "abort")
    rough = ("disconnect", "hang_up", "slow_reader", "half_open")
    operators = ("publish", "policy", "weights", "pause")
    for action in (*clients, *rough, *operators):
        assert figures[f"done/{action}"] > 0
    for action in ("adapter", "flush"):  # refused when the dice ask for what is not there
        assert figures[f"done/{action}"] + figures[f"refused/{action}"] > 0
    assert figures["python_blocks"] > 0
    assert figures["refused/bad_body"] > 0
    assert figures["engine/finished"] > 10


def test_drift_is_that_of_the_second_half():
    start = [(float(t), 10.0 * t) for t in range(100)]  # it loads
    flat = [(100.0 + t, 1000.0) for t in range(100)]
    assert drift(start + flat) == pytest.approx(0)
    grows = [(100.0 + t, 1000.0 + t) for t in range(100)]
    assert drift(start + grows) == pytest.approx(99 / 1049.5)
    assert drift([]) == drift(flat[:1]) == 0


def test_neither_a_burst_nor_the_last_look_makes_a_drift():
    flat = [(float(t), 1000.0) for t in range(240)]
    burst = [(t, 1300.0 if 155 <= t < 159 else size) for t, size in flat]
    assert drift(burst) == drift([*flat[:-1], (239.0, 2000.0)]) == 0
    assert spread(burst) == spread(flat) == 0  # it lasted for half of a level
    longer = [(t, 1300.0 if 150 <= t < 170 else size) for t, size in flat]
    assert drift(longer) == 0 and spread(longer) == pytest.approx(0.3, rel=0.1)
    steps = [(t, 1000.0 + 20 * (t // 40)) for t, _ in flat]
    assert drift(steps) == pytest.approx(0.055, abs=0.01)
    assert spread([]) == 0


def test_lost_pages_are_told():
    whole = {"num_pages": 9, "free_pages": 4, "cached_pages": 3, "adapter_pages": 2}
    assert soak._lost(whole) == []
    (told,) = soak._lost(whole | {"cached_pages": 1})
    assert told.startswith("2 pages were lost")


def visited(action, reply):
    async def visit():
        async with FakeServer(lambda body: reply) as server:
            connections = Connections(server.url)
            traffic = Traffic(connections, SoakPlan("tiny", ()))
            await traffic._try(getattr(traffic, action))
            await connections.close()
        return traffic

    return asyncio.run(visit())


@pytest.mark.parametrize(
    "action", ["_completion", "_stream", "_batch", "_chat", "_disconnect", "_newcomer"]
)
def test_a_fault_of_the_server_is_an_error(action):
    traffic = visited(action, Reply(0, status=500))
    assert len(traffic.errors) == 1 and "500" in traffic.errors[0]
    assert not traffic.done


@pytest.mark.parametrize("text", ["1234567yes", "{}", "no", '{"other": true}'])
def test_an_answer_that_is_not_of_its_grammar_s_language_is_an_error(text, monkeypatch):
    async def told(self, *_):
        return {"choices": [{"finish_reason": "stop", "text": text}]}

    monkeypatch.setattr(Traffic, "_post", told)
    for _ in range(8):
        (error,) = visited("_grammar", Reply(1)).errors
        assert error.startswith("grammar: ")


def test_a_request_that_runs_after_its_abort_is_an_error(monkeypatch):
    async def still(self, id):
        return True

    monkeypatch.setattr(Traffic, "_is_in_flight", still)
    assert "still runs" in visited("_abort", Reply(1)).errors[0]


def test_a_stream_cut_short_is_an_error():
    assert visited("_stream", Reply(4, is_cut_short=True)).errors
    assert visited("_stream", Reply(4, breaks_after=2)).errors
    assert not visited("_stream", Reply(4)).errors


def test_a_bad_body_that_is_served_is_an_error(monkeypatch):
    monkeypatch.setattr("evolute.bench.soak_traffic.BAD_BODIES", (b"{}",))
    assert visited("_bad_body", Reply(1)).errors
    assert visited("_bad_body", Reply(1, status=400)).refused["bad_body"] == 1


@pytest.mark.parametrize("action", ["_stream", "_slow_reader", "_completion"])
def test_silence_is_an_error_and_slowness_is_none(action, monkeypatch):
    monkeypatch.setattr("evolute.bench.soak_traffic.SILENT_S", 0.5)
    (error,) = visited(action, Reply(4, first_s=20)).errors
    assert "silent" in error
    if action == "_stream":  # 1.6 s in all, never 0.5 without a word
        assert not visited(action, Reply(8, gap_s=0.2)).errors
