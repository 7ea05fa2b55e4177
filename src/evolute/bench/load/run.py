"""One workload on one or several servers, in turn.

    load_test([target], work, vocab_size=49152, ...) -> LoadResult       figures, notes, records

    round 1  A B C        every server is warmed first; each round has other tokens, the same for
    round 2  C B A        all, so that no prefix cache serves it from the round before
    round 3  A B C

Figures are medians over the rounds. With several servers they are named SERVER/FIGURE, and the
first is compared with each other one pair by pair: ratio/FIRST/OTHER/FIGURE, whose spread is the
95 % interval of Student's t on the logarithms.
"""

from __future__ import annotations

import asyncio
import math
import resource
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from evolute.bench.load.connection import Connections
from evolute.bench.load.drive import LoadRound, drive
from evolute.bench.load.figures import Slo, figures, hint, notes
from evolute.bench.load.plan import LoadPlan, another
from evolute.bench.load.target import Target, found
from evolute.bench.result import BenchResult
from evolute.bench.workload import shareable_tokens
from evolute.envs.tuning import interval
from evolute.telemetry.progress import progress
from evolute.types import BackendError, ConfigError

COMPARED = (
    "output_tokens_per_s",
    "total_tokens_per_s",
    "requests_per_s",
    "goodput_per_s",
    "ttft_p50_s",
    "ttft_p99_s",
    "tpot_p50_s",
    "latency_p50_s",
    "latency_p99_s",
)
MAX_REPEATS = 100
SPARE_FILES = 100


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How often, how long, what counts as good."""

    repeats: int = 1
    warmup: int = 1  # requests before the first round, not counted
    timeout_s: float = 600.0  # for one request
    slo: Slo = field(default_factory=Slo)

    def __post_init__(self) -> None:
        if not 1 <= self.repeats <= MAX_REPEATS:
            raise ConfigError(f"repeats is {self.repeats}; it must be 1 to {MAX_REPEATS}.")
        if self.warmup < 0:
            raise ConfigError(f"warmup is {self.warmup}; it must be 0 or more.")
        if not self.timeout_s > 0:
            raise ConfigError(f"timeout_s is {self.timeout_s:g}; it must be above 0.")


@dataclass(frozen=True, slots=True)
class LoadResult:
    result: BenchResult
    rounds: dict[str, list[LoadRound]]  # by server, in order
    is_interrupted: bool


def load_test(
    targets: Sequence[Target],
    work: LoadPlan,
    *,
    vocab_size: int,
    options: LoadOptions | None = None,
    config: Mapping[str, Any] | None = None,
    is_shown: bool = False,
) -> LoadResult:
    """Raises BackendError when a server is not there or its warm-up fails. `config` is added to
    the result's. Ctrl-C ends the measuring, and what was measured is given."""
    options = options or LoadOptions()
    if len({t.name for t in targets}) < len(targets):
        raise ConfigError("two servers have one name; write --url NAME=http://HOST:PORT.")
    if (options.slo.ttft_s or options.slo.tpot_s) and not all(t.is_streamed for t in targets):
        raise ConfigError(
            "without streaming there is no first token and no time per token; drop their limits."
        )
    _allow_files(2 * (work.concurrency or len(work.items)) + SPARE_FILES)
    test = _Test(targets, work, vocab_size, options, is_shown)
    asyncio.run(test.run())
    return LoadResult(test.result(dict(config or {})), test.rounds, test.is_interrupted)


# -- internals ---------------------------------------------------------------


class _Test:
    def __init__(
        self,
        targets: Sequence[Target],
        work: LoadPlan,
        vocab_size: int,
        options: LoadOptions,
        is_shown: bool,
    ) -> None:
        self.targets, self.work, self.vocab_size = list(targets), work, vocab_size
        self.options, self.is_shown = options, is_shown
        self.rounds: dict[str, list[LoadRound]] = {t.name: [] for t in targets}
        self.is_interrupted = False

    async def run(self) -> None:
        pools = {target.name: Connections(target.base) for target in self.targets}
        try:
            self.targets = [await found(t, pools[t.name]) for t in self.targets]
            for target in self.targets:
                await self._warm(target, pools[target.name])
            for number in range(self.options.repeats):
                work = another(self.work, number, self.vocab_size)
                for target in self.targets if number % 2 == 0 else self.targets[::-1]:
                    await self._round(target, work, pools[target.name], number)
                    if self.is_interrupted:
                        return
        finally:
            for pool in pools.values():
                await pool.close()

    async def _warm(self, target: Target, pool: Connections) -> None:
        work = another(self.work, self.options.repeats, self.vocab_size)
        items = [replace(i, after=(), arrival_s=0.0) for i in work.items[: self.options.warmup]]
        if not items:
            return
        taken = await drive(
            target, LoadPlan(tuple(items), 1), pool, timeout_s=self.options.timeout_s
        )
        if taken.is_interrupted:
            raise KeyboardInterrupt
        failed = [record for record in taken.records if record.error]
        if failed:
            why = f"{failed[0].error}, {failed[0].detail} {hint(failed[0].detail)}".rstrip()
            raise BackendError(f"{target.name} does not answer the warm-up: {why}")

    async def _round(self, target: Target, work: LoadPlan, pool: Connections, number: int) -> None:
        title = f"{target.name} {number + 1}/{self.options.repeats}"
        with progress(title, len(work.items), is_shown=self.is_shown) as bar:

            def show(ended: int, failed: int) -> None:
                bar.advance(ended, f"{failed} failed" if failed else "")

            taken = await drive(target, work, pool, timeout_s=self.options.timeout_s, on_done=show)
        self.is_interrupted |= taken.is_interrupted
        self.rounds[target.name].append(taken)

    def result(self, config: dict[str, Any]) -> BenchResult:
        values: dict[str, float] = {}
        spread: dict[str, tuple[float, float]] = {}
        taken: dict[str, list[dict[str, float]]] = {}
        for target in self.targets:
            rounds = _counted(self.rounds[target.name])
            taken[target.name] = [figures(r, self.options.slo) for r in rounds]
            median, around = _summary(taken[target.name])
            prefix = f"{target.name}/" if len(self.targets) > 1 else ""
            values |= {prefix + name: value for name, value in median.items()}
            spread |= {prefix + name: ends for name, ends in around.items()}
        first, *others = self.targets
        for other in others:
            for name, logs in _log_ratios(taken[first.name], taken[other.name]).items():
                key = f"ratio/{first.name}/{other.name}/{name}"
                values[key] = math.exp(statistics.fmean(logs))
                if len(logs) > 1:
                    spread[key] = (interval(logs).low, interval(logs).high)
        total = sum(len(item.prompt) for item in self.work.items)
        values["cached_frac_optimum"] = shareable_tokens(self.work.items) / total
        n = min(len(figures_) for figures_ in taken.values())
        return BenchResult(
            "serving", self._config(config), values, n, spread, notes=tuple(self._notes())
        )

    def _config(self, config: dict[str, Any]) -> dict[str, Any]:
        servers = [{k: v for k, v in asdict(t).items() if k != "api_keys"} for t in self.targets]
        loop = "open loop" if self.work.is_open else f"closed loop, {self.work.concurrency} at once"
        return {
            **config,
            "loop": loop,
            "requests": len(self.work.items),
            **asdict(self.options),
            "servers": servers,
        }

    def _notes(self) -> list[str]:
        told = []
        for target in self.targets:
            prefix = f"{target.name}: " if len(self.targets) > 1 else ""
            rounds = self.rounds[target.name]
            told += [prefix + text for text in notes(rounds, self.options.slo)]
            if not target.adapters and any(item.adapter for item in self.work.items):
                told.append(
                    f"{prefix}no --adapter was named: all requests went to the base model, with "
                    "their adapters as tenants."
                )
        return told


def _allow_files(number: int) -> None:
    """A connection is a file, and shells allow few; as many as the system lets us have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = number if hard == resource.RLIM_INFINITY else min(number, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _counted(rounds: Sequence[LoadRound]) -> list[LoadRound]:
    """Whole rounds; an interrupted one counts only when it is all there is."""
    whole = [taken for taken in rounds if not taken.is_interrupted]
    return whole or list(rounds[:1])


def _summary(
    rounds: Sequence[Mapping[str, float]],
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Medians and (least, greatest); errors that a round did not have are none, other figures
    that a round lacks are left out."""
    names = list(dict.fromkeys(name for taken in rounds for name in taken))
    median: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    for name in names:
        if not name.startswith("errors/") and not all(name in taken for taken in rounds):
            continue
        values = [taken.get(name, 0.0) for taken in rounds]
        median[name], spread[name] = statistics.median(values), (min(values), max(values))
    return median, spread


def _log_ratios(
    a: Sequence[Mapping[str, float]], b: Sequence[Mapping[str, float]]
) -> dict[str, list[float]]:
    """Of figures that are above zero on both sides in every pair."""
    pairs = list(zip(a, b))
    return {
        name: [math.log(x[name] / y[name]) for x, y in pairs]
        for name in COMPARED
        if pairs and all(x.get(name, 0) > 0 and y.get(name, 0) > 0 for x, y in pairs)
    }
