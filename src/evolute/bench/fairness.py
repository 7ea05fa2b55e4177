"""Is the engine fair, at what cost, and does a chat beside rollouts feel it?

    published      the paper's workloads on a virtual clock; a broken bound fails the bench
    pools          two greedy tenants there, by the size of memory (the paper's figure 15)
    limits         what limits on requests a minute cost instead (its table 2)
    overhead       what deciding takes of a step, with 10,000 waiting of 1,000 tenants
    shared         tenants with long prefixes of their own: dlpm beside lpm and vtc (DLPM's aim)
    interactive    first token of a chat alone, and beside rollouts that fill the engine

Ratios are between runs that follow one another, over the repeats. `quick` does little of
everything, once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from dataclasses import asdict, dataclass

from evolute.bench.replay import percentile
from evolute.bench.result import BenchResult, summarize
from evolute.bench.simulated.full_machine import step_us
from evolute.bench.simulated.tenants import run_limits, run_pools, run_published
from evolute.engine import Engine, EngineConfig
from evolute.engine.scheduling.policies.build import PolicyName
from evolute.models import LoadedModel, load_model
from evolute.types import GenerateRequest, SamplingParams

Figures = dict[str, float]
FILL_S = 60.0  # until rollouts have all places


@dataclass(frozen=True, slots=True)
class Size:
    """How much work a section does."""

    tenants: int = 16  # of `shared`
    each: int = 12  # requests of a tenant
    prefix: int = 512
    unique: int = 32
    output: int = 16
    held: float = 4.5  # prefixes that fit in memory beside what runs
    rollouts: int = 64
    chats: int = 20
    chat_prompt: int = 512
    steps: int = 200  # of `overhead`


POLICIES: tuple[PolicyName, ...] = ("fcfs", "lpm", "vtc", "dlpm", "priority")
QUICK = Size(4, 4, 64, 8, 4, 2.5, 8, 4, 64, 20)


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """All sections. Raises BrokenBound when a tenant got more than is proven possible."""
    loaded = load_model(model) if isinstance(model, str) else model
    size, config, n = QUICK if quick else Size(), config or EngineConfig(), 1 if quick else repeats
    names = ("overload",) if quick else None
    published = run_published(names, scale=0.3) if names else run_published()
    figures = {f"published/{name}": value for name, value in published.items()}
    pools, limits = run_pools(0.1 if quick else 1.0), run_limits(0.25 if quick else 1.0)
    figures |= {f"pools/{name}": value for name, value in pools.items()}
    figures |= {f"limits/{name}": value for name, value in limits.items()}
    spread = {name: (value, value) for name, value in figures.items()}
    sections = {"overhead": _overhead, "shared": _shared, "interactive": _interactive}
    for name, section in sections.items():
        median, ranges = summarize([section(loaded, config, size, turn) for turn in range(n)])
        figures |= {f"{name}/{key}": value for key, value in median.items()}
        spread |= {f"{name}/{key}": value for key, value in ranges.items()}
    chosen = {"engine": asdict(config), "size": asdict(size)}
    return BenchResult("fairness", chosen, figures, n, spread)


# -- internals ---------------------------------------------------------------


def _overhead(model: LoadedModel, config: EngineConfig, size: Size, turn: int) -> Figures:
    """A place for every running request of the aim: 100 of them, a thousand tenants."""
    return {
        f"{policy}_{waiting}_waiting_us": step_us(policy, 1000, waiting, 100, size.steps)
        for policy in POLICIES
        for waiting in (1000, 10_000)
    }


def _shared(model: LoadedModel, config: EngineConfig, size: Size, turn: int) -> Figures:
    """Each policy goes first in its turn."""
    requests = _tenants(size, model.config.vocab_size)
    memory = _memory_mb(model, config, size)
    found: Figures = {}
    policies: tuple[PolicyName, ...] = ("lpm", "dlpm", "vtc")
    for policy in policies[turn % 3 :] + policies[: turn % 3]:
        chosen = dataclasses.replace(config, policy=policy, max_running=8, memory_mb=memory)
        with Engine(model, chosen) as engine:
            engine.generate([[1, 2, 3]], SamplingParams(max_new_tokens=2))  # warms the code
            before = engine.stats().counts.computed_tokens
            started = time.perf_counter()
            asyncio.run(_all(engine, requests))
            seconds = time.perf_counter() - started
            computed = engine.stats().counts.computed_tokens - before
        found[f"{policy}_computed_tokens"] = float(computed)
        found[f"{policy}_requests_per_s"] = len(requests) / seconds
    for other in ("lpm", "vtc"):
        ratio = found["dlpm_requests_per_s"] / found[f"{other}_requests_per_s"]
        found[f"dlpm_over_{other}"] = ratio
    return found


def _memory_mb(model: LoadedModel, config: EngineConfig, size: Size) -> int:
    """For `size.held` prefixes and what eight requests need besides."""
    tokens = size.held * size.prefix + 8 * 2 * (size.unique + size.output + config.page_size)
    number = 2 if config.kv_dtype == "float16" or config.precision != "float32" else 4
    number = 4 if config.kv_dtype == "float32" or config.precision == "auto" else number
    return max(round(tokens * model.config.kv_width * number / 2**20), 1)


def _tenants(size: Size, vocab: int) -> list[GenerateRequest]:
    """All at once, in a random order."""
    draw = random.Random(0)
    sampling = SamplingParams(max_new_tokens=size.output, temperature=0, ignore_eos=True)
    requests = []
    for tenant in range(size.tenants):
        prefix = _ids(draw, size.prefix, vocab)
        for _ in range(size.each):
            prompt = prefix + _ids(draw, size.unique, vocab)
            requests.append(GenerateRequest(prompt, sampling, tenant=f"t{tenant}"))
    draw.shuffle(requests)
    return requests


async def _all(engine: Engine, requests: list[GenerateRequest]) -> None:
    again = [dataclasses.replace(r, id=f"{r.id}-{time.monotonic_ns()}") for r in requests]
    await asyncio.gather(*(engine.agenerate(request) for request in again))


def _interactive(model: LoadedModel, config: EngineConfig, size: Size, turn: int) -> Figures:
    """Rollouts keep the engine full: as soon as one ends, the next comes."""
    with Engine(model, dataclasses.replace(config, max_running=size.rollouts)) as engine:
        alone = asyncio.run(_chats(engine, size, model.config.vocab_size))
        engine.flush_cache()
        beside, step_s = asyncio.run(_beside(engine, size, model.config.vocab_size))
    p95, p95_alone = percentile(beside, 0.95), percentile(alone, 0.95)
    return {
        "alone_p95_s": p95_alone,
        "beside_p95_s": p95,
        "step_s": step_s,
        "ratio": p95 / p95_alone,
        "ratio_less_one_step": (p95 - step_s) / p95_alone,
    }


async def _beside(engine: Engine, size: Size, vocab: int) -> tuple[list[float], float]:
    """First-token times, and the mean step's seconds meanwhile."""
    stop = asyncio.Event()
    draw = random.Random(1)
    flood = [asyncio.ensure_future(_rollouts(engine, size, vocab, draw, stop)) for _ in range(8)]
    async with asyncio.timeout(FILL_S):
        while engine.stats().running < size.rollouts:
            await asyncio.sleep(0.01)
    before, started = engine.stats().counts.steps, time.perf_counter()
    beside = await _chats(engine, size, vocab)
    seconds = time.perf_counter() - started
    steps = engine.stats().counts.steps - before
    stop.set()
    await asyncio.gather(*flood)  # one that failed is told here
    return beside, seconds / max(steps, 1)


async def _rollouts(
    engine: Engine, size: Size, vocab: int, draw: random.Random, stop: asyncio.Event
) -> None:
    """One group after the other, an eighth of the engine's places each."""
    sampling = SamplingParams(
        max_new_tokens=4 * size.output, n=size.rollouts // 8, temperature=1, ignore_eos=True, seed=1
    )
    while not stop.is_set():
        prompt = _ids(draw, size.chat_prompt // 2, vocab)
        await engine.agenerate(GenerateRequest(prompt, sampling, tenant="rollouts"))


async def _chats(engine: Engine, size: Size, vocab: int) -> list[float]:
    draw = random.Random(2)
    sampling = SamplingParams(max_new_tokens=2, temperature=0, ignore_eos=True)
    firsts = []
    for _ in range(size.chats):
        prompt = _ids(draw, size.chat_prompt, vocab)
        started = time.perf_counter()
        async for delta in engine.stream(GenerateRequest(prompt, sampling, tenant="chat")):
            if delta.token_ids:
                firsts.append(time.perf_counter() - started)
                break
        await asyncio.sleep(0.05)
    return firsts


def _ids(draw: random.Random, count: int, vocab: int) -> tuple[int, ...]:
    return tuple(draw.randrange(vocab) for _ in range(count))
