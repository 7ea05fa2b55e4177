"""Run a workload through an engine and say what it cost, and whether the answers are the same.

    replay(model, items, config, repeats=5)               all at once: throughput
    replay(model, items, config, repeats=5, paced=True)   at their moments: latencies too

Decoding is greedy and never stops early, so that every configuration does the same work and
the digest of the outputs shows whether it gave the same answers.
"""

from __future__ import annotations

import asyncio
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from evolute.bench.result import BenchResult, digest_of, one_digest, summarize
from evolute.bench.shapes import WorkItem
from evolute.engine import Engine, EngineConfig
from evolute.models import LoadedModel
from evolute.types import (
    BackendError,
    ConfigError,
    FinishReason,
    GenerateRequest,
    Output,
    SamplingParams,
)

COUNTS = ("computed_tokens", "cached_tokens", "steps", "preemptions", "evicted_pages")
RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss


@dataclass(frozen=True, slots=True)
class Timed:
    """One answer, and when its first and its last token came, in seconds after it was sent."""

    output: Output
    first_token_s: float
    latency_s: float


def replay(
    model: str | LoadedModel,
    items: Sequence[WorkItem],
    config: EngineConfig,
    *,
    repeats: int = 1,
    paced: bool = False,
    name: str = "replay",
) -> BenchResult:
    """Each repeat starts with an empty prefix cache; one short request before warms the code.

    `paced` sends each request at its `arrival_s` and streams the answers, which costs some
    throughput; without it all are sent at once, whatever they wait for. Raises BackendError when
    a request fails, ConfigError for adapters or tenants without `paced`.
    """
    if not paced and any(item.adapter or item.tenant != "default" for item in items):
        raise ConfigError(
            "this workload has tenants or adapters, which all at once would mix up; replay it "
            "paced (--paced), or over HTTP (bench serving --http)."
        )
    rounds, digests = [], []
    with Engine(model, config) as engine:
        engine.generate([list(items[0].prompt)], SamplingParams(max_new_tokens=2, temperature=0))
        for _ in range(repeats):
            engine.flush_cache()
            figures, digest = _round(engine, items, paced=paced)
            rounds.append(figures)
            digests.append(digest)
        settings = asdict(engine.config)
    median, spread = summarize(rounds)
    return BenchResult(name, settings, median, repeats, spread, one_digest(digests))


def percentile(values: Sequence[float], part: float) -> float:
    """The least value that `part` of all do not exceed; `part` in (0, 1]."""
    ordered = sorted(values)
    return ordered[max(-int(-part * len(ordered) // 1), 1) - 1]


def peak_rss_mb() -> float:
    """Of this process, since it started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT_BYTES / 2**20


# -- internals ---------------------------------------------------------------


def _round(
    engine: Engine, items: Sequence[WorkItem], *, paced: bool
) -> tuple[dict[str, float], str]:
    before = engine.stats().counts
    started = time.perf_counter()
    if paced:
        timed = asyncio.run(_send_paced(engine, items))
        outputs = [one.output for one in timed]
    else:
        outputs = engine.generate(
            [list(item.prompt) for item in items], [_sampling(item) for item in items]
        )
    seconds = time.perf_counter() - started
    after = engine.stats().counts
    _check(items, outputs)
    made = sum(len(output.token_ids) for output in outputs)
    prompt = sum(len(item.prompt) for item in items)
    figures = {
        "seconds": seconds,
        "output_tokens_per_s": made / seconds,
        "total_tokens_per_s": (made + prompt) / seconds,
        "output_tokens": float(made),
        **{c: float(getattr(after, c) - getattr(before, c)) for c in COUNTS},
        "peak_rss_mb": peak_rss_mb(),
    }
    if paced:
        figures |= _latencies(timed)
    pairs = [(item.id, output.token_ids) for item, output in zip(items, outputs)]
    return figures, digest_of(pairs)


async def _send_paced(engine: Engine, items: Sequence[WorkItem]) -> list[Timed]:
    over = {item.id: asyncio.Event() for item in items}
    return list(await asyncio.gather(*(_send(engine, item, over) for item in items)))


async def _send(engine: Engine, item: WorkItem, over: Mapping[str, asyncio.Event]) -> Timed:
    await asyncio.sleep(item.arrival_s)
    for id in item.after:
        await over[id].wait()
    sent, first, output = time.perf_counter(), 0.0, None
    request = GenerateRequest(item.prompt, _sampling(item), item.adapter, item.tenant)
    try:
        async for delta in engine.stream(request):
            first = first or time.perf_counter()
            output = delta.output or output
    finally:
        over[item.id].set()
    assert output is not None, "a stream ends with its output"
    return Timed(output, first - sent, time.perf_counter() - sent)


def _sampling(item: WorkItem) -> SamplingParams:
    return SamplingParams(
        max_new_tokens=item.max_new_tokens,
        temperature=0,
        ignore_eos=item.json_schema is None,
        json_schema=item.json_schema,
    )


def _check(items: Sequence[WorkItem], outputs: Sequence[Output]) -> None:
    for item, output in zip(items, outputs, strict=True):
        if output.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH):
            raise BackendError(
                f"request {item.id!r} ended with {output.finish_reason}: {output.error}. "
                "A bench of failed requests says nothing."
            )


def _latencies(timed: Sequence[Timed]) -> dict[str, float]:
    first = [one.first_token_s for one in timed]
    latency = [one.latency_s for one in timed]
    return {
        "ttft_p50_s": percentile(first, 0.5),
        "ttft_p99_s": percentile(first, 0.99),
        "latency_p50_s": percentile(latency, 0.5),
        "latency_p99_s": percentile(latency, 0.99),
    }
