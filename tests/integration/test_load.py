"""The load generator against a scripted server: orders and counts, never absolute seconds."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from evolute.bench import WorkItem, run_bench
from evolute.bench.load import LoadOptions, LoadRound, Slo, Target, load_test, plan
from evolute.bench.load.connection import Connections
from evolute.bench.load.drive import drive
from evolute.bench.load.fake import FakeServer, Reply
from evolute.bench.load.figures import figures, latency, ttft
from evolute.testing import until
from evolute.types import BackendError, ConfigError

Script = Callable[[dict[str, Any]], Reply]
TEXT: dict[str, Any] = {"prompts": "text"}


def items(number: int, new: int = 4, **fields: Any) -> list[WorkItem]:
    return [WorkItem(f"i{i}", (20 + i, 30), new, **fields) for i in range(number)]


def driven(
    script: Script, work: Any, timeout_s: float = 20.0, **target: Any
) -> tuple[LoadRound, FakeServer]:
    async def run() -> tuple[LoadRound, FakeServer]:
        async with FakeServer(script) as server:
            connections = Connections(server.url)
            aim = Target("fake", server.url, "fake", **target)
            taken = await drive(aim, work, connections, timeout_s=timeout_s)
            await connections.close()
        return taken, server

    return asyncio.run(run())


@pytest.mark.parametrize("target", [{}, TEXT, TEXT | {"endpoint": "chat"}], ids=str)
def test_every_token_is_counted_and_the_role_is_none(target: dict[str, Any]) -> None:
    taken, server = driven(
        lambda body: Reply(body["max_tokens"], cached_tokens=1), plan(items(5, 7)), **target
    )
    for record in taken.records:
        assert not record.error and record.finish_reason == "length" and record.has_usage
        assert record.output_tokens == len(record.token_s) == 7 and record.cached_tokens == 1
        assert record.due_s <= record.sent_s <= record.token_s[0] <= record.end_s
        assert record.token_s == sorted(record.token_s)
    assert len(server.bodies) == 5
    assert figures(taken, Slo())["output_tokens"] == 35


def test_the_known_delays_are_found() -> None:
    reply = Reply(5, first_s=0.2, gap_s=0.05)
    taken, _ = driven(lambda body: reply, plan(items(1)))
    (record,) = taken.records
    assert (ttft(record) or 0) >= 0.2
    assert latency(record) >= 0.2 + 4 * 0.05
    assert record.token_s[-1] - record.token_s[0] >= 4 * 0.05 - 0.01
    quick, _ = driven(lambda body: Reply(5), plan(items(1)))
    assert latency(quick.records[0]) < latency(record)


def test_a_closed_loop_never_has_more_in_flight_than_it_may_and_uses_connections_again() -> None:
    taken, server = driven(lambda body: Reply(2, first_s=0.01), plan(items(20), concurrency=3))
    assert server.most_running == 3 and server.connections == 3
    assert len(taken.records) == 20


def test_a_closed_loop_counts_from_when_the_place_was_free() -> None:
    taken, _ = driven(lambda body: Reply(1, first_s=0.05), plan(items(4), concurrency=1))
    due = [record.due_s for record in taken.records]
    ends = [record.end_s for record in taken.records]
    assert all(begin >= end for begin, end in zip(due[1:], ends))


def test_an_open_loop_does_not_wait_for_slow_answers_and_counts_from_the_moment_due() -> None:
    work = plan([WorkItem(f"i{i}", (20,), 1, 0.02 * i) for i in range(6)])
    taken, server = driven(lambda body: Reply(1, first_s=0.4), work)
    assert server.most_running == 6
    for record, item in zip(taken.records, work.items):
        assert record.due_s == item.arrival_s <= record.sent_s
        assert latency(record) >= record.end_s - record.sent_s


def test_what_waits_is_sent_after_what_it_waits_for_and_is_due_then() -> None:
    calls = [
        WorkItem("a", (20,), 1, arrival_s=0.01, program="p"),
        WorkItem("b", (21,), 1, arrival_s=0.01, after=("a",), program="p"),
        WorkItem("c", (22,), 1, arrival_s=0.01, after=("a",), program="p"),
        WorkItem("d", (23,), 1, arrival_s=0.01, after=("b", "c"), program="p"),
    ]
    for work in (plan(calls), plan(calls, concurrency=4)):
        taken, server = driven(lambda body: Reply(1, first_s=0.05), work)
        a, b, c, d = taken.records
        assert b.due_s >= a.end_s and c.due_s >= a.end_s
        assert d.due_s >= max(b.end_s, c.end_s)
        assert [body["prompt"][0] for body in server.bodies][0::3] == [20, 23]
        assert server.most_running == 2


def test_each_kind_of_failure_is_counted_and_explained_and_the_others_go_on() -> None:
    replies = [
        Reply(3),
        Reply(status=503, error="queue is full"),
        Reply(3, breaks_after=1),
        Reply(3, error="the engine broke"),
        Reply(3, is_cut_short=True),
        Reply(3, first_s=9.0),
        Reply(3),
    ]
    taken, _ = driven(lambda body: replies[body["prompt"][0] - 20], plan(items(7)), timeout_s=1.0)
    kinds = [record.error for record in taken.records]
    assert kinds == [
        "", "http_503", "connection", "error_in_answer", "cut_short", "timeout", "",
    ]  # fmt: skip
    details = [record.detail for record in taken.records]
    assert "queue is full" in details[1] and "broke" in details[3] and "1 s" in details[5]
    found = figures(taken, Slo())
    assert (found["answered"], found["failed"], found["output_tokens"]) == (2, 5, 6)
    assert found["errors/timeout"] == 1


def test_a_server_that_is_not_there_is_a_counted_failure() -> None:
    async def run() -> LoadRound:
        target = Target("gone", "http://127.0.0.1:9", "m")
        return await drive(target, plan(items(2)), Connections(target.base), timeout_s=5)

    taken = asyncio.run(run())
    assert [record.error for record in taken.records] == ["connection"] * 2


def test_a_connection_that_the_server_closed_meanwhile_is_replaced() -> None:
    async def run() -> tuple[int, str]:
        async with FakeServer(lambda body: Reply(1)) as server:
            connections = Connections(server.url)
            target = Target("fake", server.url, "fake")
            await drive(target, plan(items(1)), connections, timeout_s=5)
            for writer in list(server._open):
                writer.close()
            again = await drive(target, plan(items(1)), connections, timeout_s=5)
            await connections.close()
            return server.connections, again.records[0].error

    assert asyncio.run(run()) == (2, "")


def test_without_usage_pieces_are_counted() -> None:
    taken, _ = driven(lambda body: Reply(6, has_usage=False), plan(items(1)))
    (record,) = taken.records
    assert (record.output_tokens, record.has_usage, record.prompt_tokens) == (6, False, 0)


def test_an_answer_that_comes_whole_has_a_latency_and_no_first_token() -> None:
    taken, server = driven(lambda body: Reply(6), plan(items(2)), is_streamed=False)
    assert "stream" not in server.bodies[0]
    assert [r.output_tokens for r in taken.records] == [6, 6]
    found = figures(taken, Slo())
    assert "ttft_p50_s" not in found and found["latency_p50_s"] > 0


def test_tenants_have_their_users_and_keys() -> None:
    work = plan([WorkItem(f"{t}{i}", (20,), 1, tenant=t) for t in ("ann", "bob") for i in (0, 1)])
    _, server = driven(lambda body: Reply(1), work, api_keys=("k", "l"))
    seen = {(body["user"], body["headers"]["authorization"]) for body in server.bodies}
    assert seen == {("ann", "bearer k"), ("bob", "bearer l")}


# -- whole tests ----------------------------------------------------------------


class InThread:
    """A FakeServer on a loop of its own, for callers that have no loop."""

    def __init__(self, script: Script) -> None:
        self.server = FakeServer(script)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeServer:
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self.server.__aenter__(), self._loop).result(10)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self.server.__aexit__(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def test_rounds_have_other_tokens_and_the_warm_up_is_not_counted() -> None:
    with InThread(lambda body: Reply(2)) as server:
        done = load_test(
            [Target("fake", server.url)], plan(items(3)), vocab_size=1000,
            options=LoadOptions(repeats=3, warmup=2, slo=Slo(ttft_s=60.0)),
            config={"workload": "w"},
        )  # fmt: skip
    result = done.result
    assert (result.n, result.figures["requests"], result.figures["good_frac"]) == (3, 3, 1)
    assert len(server.bodies) == 2 + 3 * 3
    assert len({tuple(body["prompt"]) for body in server.bodies}) == 2 + 3 * 3
    assert server.bodies[0]["model"] == "fake"  # the server was asked for it
    low, high = result.spread["seconds"]
    assert low <= result.figures["seconds"] <= high
    assert result.config["workload"] == "w" and result.config["slo"]["ttft_s"] == 60.0
    assert "api_keys" not in result.config["servers"][0]


def test_two_servers_take_turns_and_are_compared_pair_by_pair() -> None:
    order = []

    def script(name: str, first_s: float) -> Script:
        def reply(body: dict[str, Any]) -> Reply:
            order.append(name)
            return Reply(2, first_s=first_s)

        return reply

    with InThread(script("a", 0.01)) as a, InThread(script("b", 0.3)) as b:
        done = load_test(
            [Target("a", a.url), Target("b", b.url)], plan(items(1)), vocab_size=1000,
            options=LoadOptions(repeats=4, warmup=0),
        )  # fmt: skip
    assert "".join(order) == "ab" + "ba" + "ab" + "ba"
    figures_, spread = done.result.figures, done.result.spread
    ratio = figures_["ratio/a/b/ttft_p50_s"]
    low, high = spread["ratio/a/b/ttft_p50_s"]
    assert low < ratio < high and ratio < 1
    assert figures_["ratio/a/b/requests_per_s"] > 1
    assert figures_["a/ttft_p50_s"] < figures_["b/ttft_p50_s"]
    sent_a = [tuple(body["prompt"]) for body in a.bodies]
    assert sent_a == [tuple(body["prompt"]) for body in b.bodies]


def test_a_failure_in_one_round_shows_in_the_medians() -> None:
    calls = iter(range(100))

    def sometimes(body: dict[str, Any]) -> Reply:
        return Reply(status=500, error="no") if next(calls) == 0 else Reply(2)

    with InThread(sometimes) as server:
        done = load_test(
            [Target("fake", server.url)], plan(items(2), concurrency=1), vocab_size=1000,
            options=LoadOptions(repeats=2, warmup=0),
        )  # fmt: skip
    assert done.result.figures["errors/http_500"] == 0.5
    assert done.result.spread["errors/http_500"] == (0, 1)
    assert "http_500" in done.result.notes[0]


def test_ctrl_c_gives_what_was_measured() -> None:
    with InThread(lambda body: Reply(1, first_s=0.0 if body["prompt"][0] < 23 else 30.0)) as server:

        def interrupt() -> None:
            until(lambda: len(server.bodies) >= 6 and server.running <= 3)
            time.sleep(0.5)  # the quick ones are read
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        done = load_test(
            [Target("fake", server.url)], plan(items(6)), vocab_size=1000,
            options=LoadOptions(repeats=5, warmup=0),
        )  # fmt: skip
        thread.join(20)
    assert done.is_interrupted
    assert done.result.figures["answered"] == 3
    assert any("after 3 of 6" in note for note in done.result.notes)


def test_the_generator_measures_itself() -> None:
    result = run_bench("generator", quick=True)
    assert result.figures["failed"] == 0
    for name in ("requests_per_s", "pieces_per_s", "cpu_per_request_s", "cpu_per_piece_s"):
        assert result.figures[name] > 0


def test_many_connections_at_once() -> None:
    taken, server = driven(lambda body: Reply(1, first_s=0.5), plan(items(400)))
    assert server.most_running == 400
    assert not any(record.error for record in taken.records)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (lambda body: Reply(status=401, error="key"), "http_401"),
        (lambda body: Reply(2, is_cut_short=True), "cut_short"),
    ],
)
def test_a_warm_up_that_fails_ends_the_test_with_its_reason(script: Script, message: str) -> None:
    with InThread(script) as server, pytest.raises(BackendError, match=message):
        load_test([Target("fake", server.url)], plan(items(2)), vocab_size=1000)


def test_no_server_and_wrong_wishes_are_told() -> None:
    with pytest.raises(BackendError, match="no server answers"):
        load_test([Target("x", "http://127.0.0.1:9")], plan(items(1)), vocab_size=1000)
    twice = [Target("x", "http://127.0.0.1:9")] * 2
    with pytest.raises(ConfigError, match="NAME=http"):
        load_test(twice, plan(items(1)), vocab_size=1000)
    with pytest.raises(ConfigError, match="repeats is 0"):
        LoadOptions(repeats=0)
    whole = Target("x", "http://127.0.0.1:9", is_streamed=False)
    with pytest.raises(ConfigError, match="first token"):
        load_test([whole], plan(items(1)), vocab_size=1000,
                  options=LoadOptions(slo=Slo(ttft_s=1.0)))  # fmt: skip
