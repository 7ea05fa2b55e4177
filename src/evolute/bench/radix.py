"""How much of what could be shared is shared, and what does looking for it cost?

    hit_rate(items, policy, pages) -> HitRate      counts of the simulator, no model
    cold_request(policy) -> int                    how many later ones pass a request with no prefix
    overhead(model, config, size) -> Figures       time in the tree when nothing can be shared

The optimum is exact: prompt tokens on an edge of the prompts' trie that somebody else has too,
over all prompt tokens (theorem 3.1 of RadixAttention). `large` memory holds everything, `small`
a quarter of the trie, but at least two requests of the longest kind.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evolute.bench.result import BenchResult, summarize
from evolute.bench.shapes import WorkItem, sglang
from evolute.bench.workload import make_workload, shareable_tokens
from evolute.engine import Engine, EngineConfig
from evolute.engine.memory import RadixCache
from evolute.engine.scheduling import Arrival, SimulationSettings, simulate
from evolute.engine.scheduling.policies.build import PolicyName
from evolute.models import LoadedModel, load_model
from evolute.types import SamplingParams

POLICIES: tuple[PolicyName, ...] = ("fcfs", "lpm", "vtc", "dlpm")
VOCAB = 1000
REPLIES = 1000  # the simulator's outputs are below it
MAX_RUNNING, BUDGET = 16, 512
NUM_HOT = 400  # of `cold_request`
TIMED = ("match", "pin", "unpin", "insert", "evict", "drop")
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class HitRate:
    """Prompt tokens: found in the cache, found by the best possible one, all."""

    cached: int
    shareable: int
    total: int

    @property
    def of_optimum(self) -> float:
        return self.cached / self.shareable if self.shareable else 1.0


def run(
    quick: bool,
    *,
    model: str | LoadedModel = "smollm2-135m",
    config: EngineConfig | None = None,
    repeats: int = 3,
) -> BenchResult:
    """Every shape under every policy, the cold request, and the tree's part of a real run."""
    loaded = load_model(model) if isinstance(model, str) else model
    config, n, scale = config or EngineConfig(), 1 if quick else repeats, 0.2 if quick else 1.0
    figures = shapes(config.page_size, scale) | shapes(1, scale)
    for policy in POLICIES:
        figures[f"cold/{policy}_passed_by"] = float(cold_request(policy))
    spread = {name: (value, value) for name, value in figures.items()}
    median, ranges = summarize([overhead(loaded, config, 8 if quick else 64) for _ in range(n)])
    figures |= {f"overhead/{name}": value for name, value in median.items()}
    spread |= {f"overhead/{name}": value for name, value in ranges.items()}
    return BenchResult("radix", {"engine": asdict(config), "scale": scale}, figures, n, spread)


def shapes(page_size: int, scale: float) -> Figures:
    """`page16/large/lpm/mmlu`: the part of the optimum that was found, and the mean over shapes."""
    figures: Figures = {}
    works = {
        name.removeprefix("sglang-"): shuffled(make_workload(name, VOCAB, scale=scale))
        for name in sglang.SHAPES
    }
    for memory in ("large", "small"):
        for policy in POLICIES:
            title = f"page{page_size}/{memory}/{policy}"
            for shape, items in works.items():
                pages = pool_pages(items, page_size, is_large=memory == "large")
                found = hit_rate(items, policy, pages, page_size)
                figures[f"{title}/{shape}"] = found.of_optimum
            mean = statistics.mean(figures[f"{title}/{shape}"] for shape in works)
            figures[f"{title}/mean"] = mean
    return figures


def hit_rate(
    items: Sequence[WorkItem], policy: PolicyName, num_pages: int, page_size: int = 1
) -> HitRate:
    """All that waits for nobody comes at once, the rest as soon as it may."""
    place = {item.id: number for number, item in enumerate(items)}
    arrivals = [
        Arrival(
            0,
            tuple(REPLIES + token for token in item.prompt),  # no reply is found by chance
            item.max_new_tokens,
            tenant=item.tenant,
            after=tuple(place[before] for before in item.after),
        )
        for item in items
    ]
    settings = SimulationSettings(num_pages, page_size, BUDGET, MAX_RUNNING, policy)
    replay = simulate(arrivals, settings, is_checked=False)
    total = sum(len(item.prompt) for item in items)
    return HitRate(sum(replay.cached_tokens), shareable_tokens(items), total)


def shuffled(items: Sequence[WorkItem], seed: int = 0) -> list[WorkItem]:
    """In an order that does no policy's work; what waits for others stands behind them."""
    depth: dict[str, int] = {}
    for item in items:
        depth[item.id] = 1 + max((depth[before] for before in item.after), default=0)
    order = random.Random(seed).sample(list(items), len(items))
    return sorted(order, key=lambda item: depth[item.id])


def pool_pages(items: Sequence[WorkItem], page_size: int, *, is_large: bool) -> int:
    lengths = [len(item.prompt) + item.max_new_tokens + 2 * page_size for item in items]
    if is_large:
        return -(-sum(lengths) // page_size)
    trie = sum(len(item.prompt) for item in items) - shareable_tokens(items)
    return -(-max(trie // 4, 2 * max(lengths)) // page_size)


def cold_request(policy: PolicyName) -> int:
    """Requests of one prefix come faster than they are served; how many that came later are
    admitted before one that has nothing in the cache?"""
    draw = random.Random(0)
    hot = tuple(draw.randrange(VOCAB) for _ in range(64))
    arrivals = [
        Arrival(step // 4, hot + tuple(draw.randrange(VOCAB) for _ in range(8)), 4)
        for step in range(NUM_HOT)
    ]
    cold = Arrival(8, tuple(draw.randrange(VOCAB) for _ in range(72)), 4)
    settings = SimulationSettings(256, 4, 64, 4, policy)
    return simulate([*arrivals, cold], settings, is_checked=False).passed_over[-1]


def overhead(model: LoadedModel, config: EngineConfig, requests: int) -> Figures:
    """Prompts of 128 random tokens, 32 new ones each: nothing to find, everything to insert.

    Seconds are processor time of the engine's thread, which other work on the machine does not
    lengthen; while it waits for threads that compute with it, none passes.
    """
    draw, vocab = random.Random(0), model.config.vocab_size
    prompts = [[draw.randrange(vocab) for _ in range(128)] for _ in range(requests)]
    sampling = SamplingParams(temperature=0, max_new_tokens=32, ignore_eos=True)
    with Engine(model, dataclasses.replace(config, prefix_cache=True)) as engine:
        engine.generate([prompts[0][:8]], sampling)
        spent = _timed(engine._core.placement.cache)
        started = engine._loop.call(time.thread_time)
        engine.generate(prompts, sampling)
        seconds = engine._loop.call(time.thread_time) - started
        found = engine.stats().counts.cached_tokens
    return {
        "seconds": seconds,
        "tree_seconds": spent[0],
        "tree_frac": spent[0] / seconds,
        "cached_tokens": float(found),
    }


# -- internals ---------------------------------------------------------------


def _timed(cache: RadixCache) -> list[float]:
    """From now on the first element grows by the seconds spent in this cache's operations."""
    spent, depth = [0.0], [0]

    def measured(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            depth[0] += 1
            started = time.thread_time()
            try:
                return call(*given)
            finally:
                depth[0] -= 1
                if not depth[0]:  # an operation may use another
                    spent[0] += time.thread_time() - started

        return timed

    for name in TIMED:
        setattr(cache, name, measured(getattr(cache, name)))
    return spent
