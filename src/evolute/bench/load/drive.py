"""Sends a plan to a server and notes what came back, and when.

    round = await drive(target, plan, connections, timeout_s=600)

                 due                sent          first token      last token
    open loop     |---- waits ------|-------------|----------------|
                  |<------- time to first token ->|
                  |<---------------- latency --------------------->|

In an open loop everything counts from the moment a request was due, whatever kept it from being
sent (Tene's coordinated omission); a request that waits for another is due when that has ended.
In a closed loop a request is due when its place is free. A request that fails is a record too.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolute.bench.load.connection import Connections, Failure
from evolute.bench.load.plan import LoadPlan
from evolute.bench.load.target import Piece, Target, read
from evolute.bench.shapes import WorkItem

LAG_EVERY_S = 0.01
OnDone = Callable[[int, int], None]  # (ended, failed)


@dataclass(slots=True)
class Record:
    """One request; seconds since the start of the round. `error` is a kind, '' for an answer."""

    id: str
    tenant: str
    adapter: str | None
    program: str
    due_s: float
    sent_s: float = 0.0
    token_s: list[float] = field(default_factory=list)  # when each piece with tokens came
    end_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    has_usage: bool = False  # the server counted; else output_tokens are pieces
    finish_reason: str = ""
    error: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LoadRound:
    """All records of one plan on one server, in the plan's order, and how the generator fared."""

    records: tuple[Record, ...]
    seconds: float  # from the start to the last answer
    lag_s: tuple[float, ...]  # how much later than asked the event loop woke up, sampled
    cpu_s: float  # of this process
    planned: int
    is_interrupted: bool = False


async def drive(
    target: Target,
    work: LoadPlan,
    connections: Connections,
    *,
    timeout_s: float,
    on_done: OnDone = lambda ended, failed: None,
) -> LoadRound:
    """Bodies are made beforehand. A cancellation (Ctrl-C) ends the round with what there is."""
    run = _Run(target, work, connections, timeout_s, on_done)
    with _no_collections():
        cpu, run.started = time.process_time(), time.perf_counter()
        watch = asyncio.create_task(run.watch_lag())
        tasks = [asyncio.create_task(run.one(i)) for i in range(len(work.items))]
        is_interrupted = False
        try:
            await asyncio.gather(*tasks)
        except asyncio.CancelledError:
            is_interrupted = True
        finally:
            for task in (watch, *tasks):
                task.cancel()
            ended = await asyncio.gather(watch, *tasks, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception):
            raise outcome
    records = tuple(r for r in run.records if r is not None)
    seconds = max((r.end_s for r in records), default=0.0)
    cpu_s = time.process_time() - cpu
    return LoadRound(records, seconds, tuple(run.lag), cpu_s, len(work.items), is_interrupted)


# -- internals ---------------------------------------------------------------


class _Run:
    def __init__(
        self,
        target: Target,
        work: LoadPlan,
        connections: Connections,
        timeout_s: float,
        on_done: OnDone,
    ) -> None:
        self.target, self.work, self.connections = target, work, connections
        self.timeout_s, self.on_done = timeout_s, on_done
        tenants = {name: i for i, name in enumerate(dict.fromkeys(i.tenant for i in work.items))}
        adapters = {
            n: i for i, n in enumerate(dict.fromkeys(i.adapter for i in work.items if i.adapter))
        }
        self.bodies = [
            target.body(i, None if i.adapter is None else adapters[i.adapter]) for i in work.items
        ]
        self.headers = [target.headers(tenants[i.tenant]) for i in work.items]
        self.records: list[Record | None] = [None] * len(work.items)
        waited = {id for item in work.items for id in item.after}
        self.over = {id: asyncio.Event() for id in waited}
        self.places = asyncio.Semaphore(work.concurrency or len(work.items))
        self.started, self.num_ended, self.num_failed = 0.0, 0, 0
        self.lag: list[float] = []

    def now(self) -> float:
        return time.perf_counter() - self.started

    async def one(self, index: int) -> None:
        item = self.work.items[index]
        for id in item.after:
            await self.over[id].wait()
        if self.work.is_open:
            due = max(item.arrival_s, self.now()) if item.after else item.arrival_s
            await asyncio.sleep(due - self.now())
            await self._send(index, item, due)
        else:
            async with self.places:
                await self._send(index, item, self.now())

    async def _send(self, index: int, item: WorkItem, due: float) -> None:
        record = Record(item.id, item.tenant, item.adapter, item.program, due, sent_s=self.now())
        try:
            async with asyncio.timeout(self.timeout_s):
                ask = self._stream if self.target.is_streamed else self._whole
                await ask(index, record)
        except TimeoutError:
            record.error = "timeout"
            record.detail = f"no whole answer within {self.timeout_s:g} s"
        except Failure as failure:
            record.error, record.detail = failure.kind, str(failure)
        record.end_s = self.now()
        self.records[index] = record
        if item.id in self.over:
            self.over[item.id].set()
        self.num_ended += 1
        self.num_failed += bool(record.error)
        self.on_done(self.num_ended, self.num_failed)

    async def _stream(self, index: int, record: Record) -> None:
        path, endpoint = self.target.path, self.target.endpoint
        usage, is_over, last_s = None, False, 0.0
        events = self.connections.events(path, self.bodies[index], self.headers[index])
        async with contextlib.aclosing(events):
            async for received_s, payload in events:
                if payload == b"[DONE]":
                    is_over = True
                    continue
                piece = read(payload, endpoint)
                last_s = received_s - self.started
                if piece.has_token:
                    record.token_s.append(last_s)
                usage = piece.usage or usage
                self._take(piece, record)
        if not is_over and not record.finish_reason:
            raise Failure("cut_short", "the stream ended without a finish reason and [DONE]")
        _count(record, usage)
        if record.output_tokens and not record.token_s:  # all of them without text of their own
            record.token_s.append(last_s)

    async def _whole(self, index: int, record: Record) -> None:
        status, text = await self.connections.fetch(
            "POST", self.target.path, self.bodies[index], self.headers[index]
        )
        if status != 200:
            raise Failure(f"http_{status}", text[:300])
        piece = read(text, self.target.endpoint)
        self._take(piece, record)
        if not record.finish_reason:
            raise Failure("bad_answer", "the answer has no finish reason")
        _count(record, piece.usage)

    def _take(self, piece: Piece, record: Record) -> None:
        if piece.error:
            raise Failure("error_in_answer", piece.error[:300])
        record.finish_reason = piece.finish_reason or record.finish_reason
        if piece.finish_reason in ("abort", "error"):
            raise Failure(f"finish_{piece.finish_reason}", "the server gave the request up")

    async def watch_lag(self) -> None:
        while True:
            asked = time.perf_counter() + LAG_EVERY_S
            await asyncio.sleep(LAG_EVERY_S)
            self.lag.append(max(time.perf_counter() - asked, 0.0))


def _count(record: Record, usage: Mapping[str, Any] | None) -> None:
    """The server's own counts; without them the pieces are taken for tokens."""
    if not usage:
        record.output_tokens = len(record.token_s)
        return
    record.has_usage = True
    record.prompt_tokens = int(usage.get("prompt_tokens") or 0)
    record.output_tokens = int(usage.get("completion_tokens") or 0)
    details = usage.get("prompt_tokens_details") or {}
    record.cached_tokens = int(details.get("cached_tokens") or 0)


@contextlib.contextmanager
def _no_collections() -> Iterator[None]:
    """A full collection stops the loop for as long as it takes; records are few and acyclic."""
    gc.collect()
    gc.freeze()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
        gc.unfreeze()
