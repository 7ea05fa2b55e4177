"""What the load generator itself costs, and how much load it can make on this machine.

The server is a trivial one in a process of its own (`load/fake.py`), so that `requests_per_s` and
`pieces_per_s` are at least what the generator can do; its own processor time for a request and for
a piece of a stream is exact whatever the server does.
"""

from __future__ import annotations

import asyncio
import sys

from evolute.bench.load.connection import Connections
from evolute.bench.load.drive import LoadRound, drive
from evolute.bench.load.figures import Slo, figures
from evolute.bench.load.local import ServerProcess
from evolute.bench.load.plan import LoadPlan
from evolute.bench.load.target import Target
from evolute.bench.result import BenchResult, summarize
from evolute.bench.shapes import WorkItem
from evolute.engine import EngineConfig
from evolute.models import LoadedModel

CONCURRENCY, NUM_PROMPT = 32, 128
FEW, MANY = 1, 129  # pieces of an answer; the difference in time is that of the pieces
TIMEOUT_S = 60.0


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """No model is loaded; `model` and `config` are those of the other benches and unused."""
    requests = 64 if quick else 512
    with ServerProcess([sys.executable, "-m", "evolute.bench.load.fake"]) as server:
        rounds = [asyncio.run(_round(server.url, requests)) for _ in range(1 if quick else repeats)]
    settings = {"concurrency": CONCURRENCY, "requests": requests, "pieces": MANY}
    median, spread = summarize(rounds)
    return BenchResult("generator", settings, median, len(rounds), spread)


# -- internals ---------------------------------------------------------------


async def _round(url: str, requests: int) -> dict[str, float]:
    target, connections = Target("fake", url, model="fake"), Connections(url)
    try:
        await _drive(target, connections, CONCURRENCY, FEW)
        few = await _drive(target, connections, requests, FEW)
        many = await _drive(target, connections, requests, MANY)
    finally:
        await connections.close()
    more = (MANY - FEW) * requests
    return {
        "requests_per_s": requests / few.seconds,
        "pieces_per_s": MANY * requests / many.seconds,
        "cpu_per_request_s": few.cpu_s / requests,
        "cpu_per_piece_s": max(many.cpu_s - few.cpu_s, 0.0) / more,
        "failed": figures(few, Slo())["failed"] + figures(many, Slo())["failed"],
        "lag_p99_s": figures(many, Slo())["generator/lag_p99_s"],
        "lag_max_s": figures(many, Slo())["generator/lag_max_s"],
    }


async def _drive(target: Target, connections: Connections, requests: int, pieces: int) -> LoadRound:
    prompt = tuple(range(NUM_PROMPT))
    items = tuple(WorkItem(f"{i}", prompt, pieces) for i in range(requests))
    return await drive(target, LoadPlan(items, CONCURRENCY), connections, timeout_s=TIMEOUT_S)
