"""What a round's records come to: latencies, throughput, goodput, errors, tenants.

    figures(round, Slo(ttft_s=0.5)) -> {"ttft_p50_s": ..., ...}
    notes(rounds, slo) -> what a reader must know before believing them

ttft       due -> first token                 tpot    (last - first token) / (tokens - 1)
itl        between pieces with tokens         latency due -> end of the answer
Percentiles are of answered requests and say nothing of the others; throughput counts the tokens
of answered requests; goodput counts requests, failed ones as misses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from evolute.bench.load.drive import LoadRound, Record
from evolute.bench.replay import percentile
from evolute.types import ConfigError

PARTS = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
LAG_WARNING_S = 0.01
BUSY_WARNING_FRAC = 0.5  # of one core, by this process
COARSE_TOKENS = 1.5  # a piece, on average
HINTS = {  # what an error's text holds -> what helps
    "ignore_eos": "Add --no-ignore-eos.",
    "vocab": "Set --vocab-size to the model's.",
}


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits in seconds; an answer is good when it keeps all that are given."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "latency_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"the limit on {name} is {value:g}; it must be above 0.")

    @property
    def is_set(self) -> bool:
        return any(v is not None for v in (self.ttft_s, self.tpot_s, self.latency_s))

    def holds(self, record: Record) -> bool:
        measured = (ttft(record), tpot(record), latency(record))
        limits = (self.ttft_s, self.tpot_s, self.latency_s)
        return not record.error and all(
            value is None or limit is None or value <= limit
            for value, limit in zip(measured, limits)
        )


def ttft(record: Record) -> float | None:
    """None for an answer without tokens, or one that came whole."""
    return record.token_s[0] - record.due_s if record.token_s else None


def tpot(record: Record) -> float | None:
    """None for fewer than two tokens, and for tokens that came in one piece."""
    if len(record.token_s) < 2 or record.output_tokens < 2:
        return None
    return (record.token_s[-1] - record.token_s[0]) / (record.output_tokens - 1)


def latency(record: Record) -> float:
    return record.end_s - record.due_s


def gaps(record: Record) -> Iterable[float]:
    return (b - a for a, b in zip(record.token_s, record.token_s[1:]))


def figures(taken: LoadRound, slo: Slo) -> dict[str, float]:
    """Names that have no value, such as ttft without streaming, are left out."""
    records, seconds = taken.records, max(taken.seconds, 1e-9)
    good = [r for r in records if not r.error]
    found = {
        "seconds": taken.seconds,
        "requests": float(len(records)),
        "answered": float(len(good)),
        "failed": float(len(records) - len(good)),
        **_throughput(good, seconds),
        **_latencies(good),
        **_programs(records, seconds),
    }
    if slo.is_set:
        kept = sum(map(slo.holds, records))
        found |= {"goodput_per_s": kept / seconds, "good_frac": kept / max(len(records), 1)}
    for kind, number in sorted(Counter(r.error for r in records if r.error).items()):
        found[f"errors/{kind}"] = float(number)
    return found | _by_tenant(records, seconds, slo) | _generator(taken)


def notes(rounds: Sequence[LoadRound], slo: Slo) -> list[str]:
    """Only what is the case."""
    records = [r for taken in rounds for r in taken.records]
    told = [_interruption(taken) for taken in rounds if taken.is_interrupted]
    failed = Counter(r.error for r in records if r.error)
    for kind, number in failed.most_common():
        example = next(r for r in records if r.error == kind)
        text = f"{number} failed, {kind}; the first, {example.id}: {example.detail}"
        told.append(f"{text} {hint(example.detail)}".rstrip())
    good = [r for r in records if not r.error]
    uncounted = sum(not r.has_usage for r in good)
    if uncounted:
        told.append(
            f"{uncounted} answers without usage: their tokens are counted as pieces of the stream, "
            "and their prompts as nothing."
        )
    more = sum(r.has_usage and len(r.token_s) > r.output_tokens for r in good)
    if more:
        told.append(f"{more} answers came in more pieces than the tokens that their usage counts.")
    pieces = sum(len(r.token_s) for r in good)
    made = sum(r.output_tokens for r in good if r.token_s)
    if pieces and made / pieces > COARSE_TOKENS:
        told.append(
            f"a piece of the stream carries {made / pieces:.1f} tokens: first-token times are "
            "those of the first piece."
        )
    return told + [text for taken in rounds for text in _overload(taken)]


def hint(detail: str) -> str:
    """What to change, when the server's own words give it away."""
    return " ".join(advice for word, advice in HINTS.items() if word in detail)


# -- internals ---------------------------------------------------------------


def _throughput(good: Sequence[Record], seconds: float) -> dict[str, float]:
    made = sum(r.output_tokens for r in good)
    prompt = sum(r.prompt_tokens for r in good)
    cached = sum(r.cached_tokens for r in good)
    pieces = sum(len(r.token_s) for r in good)
    found = {
        "requests_per_s": len(good) / seconds,
        "output_tokens_per_s": made / seconds,
        "total_tokens_per_s": (made + prompt) / seconds,
        "output_tokens": float(made),
        "prompt_tokens": float(prompt),
        "cached_tokens": float(cached),
        "cached_frac": cached / max(prompt, 1),
    }
    return found | ({"tokens_per_piece": made / pieces} if pieces else {})


def _latencies(good: Sequence[Record]) -> dict[str, float]:
    values: dict[str, list[float]] = {
        "ttft": _known(good, ttft),
        "tpot": _known(good, tpot),
        "itl": [gap for r in good for gap in gaps(r)],
        "latency": [latency(r) for r in good],
    }
    return {
        f"{name}_{part}_s": percentile(taken, share)
        for name, taken in values.items()
        if taken
        for part, share in PARTS.items()
    }


def _known(records: Sequence[Record], of: Callable[[Record], float | None]) -> list[float]:
    return [value for r in records if (value := of(r)) is not None]


def _programs(records: Sequence[Record], seconds: float) -> dict[str, float]:
    """A program is over when its last call is; one failed call spoils it."""
    calls: dict[str, list[Record]] = {}
    for record in records:
        if record.program:
            calls.setdefault(record.program, []).append(record)
    whole = [c for c in calls.values() if not any(r.error for r in c)]
    if not whole:
        return {}
    taken = [max(r.end_s for r in c) - min(r.due_s for r in c) for c in whole]
    return {"programs_per_s": len(whole) / seconds, "program_p50_s": percentile(taken, 0.5)}


def _by_tenant(records: Sequence[Record], seconds: float, slo: Slo) -> dict[str, float]:
    found: dict[str, float] = {}
    names = list(dict.fromkeys(r.tenant for r in records))
    for name in sorted(names) if len(names) > 1 else []:
        mine = [r for r in records if r.tenant == name]
        good = [r for r in mine if not r.error]
        made = sum(r.output_tokens for r in good)
        one = {"requests": float(len(mine)), "failed": float(len(mine) - len(good))}
        one["output_tokens_per_s"] = made / seconds
        one["total_tokens_per_s"] = (made + sum(r.prompt_tokens for r in good)) / seconds
        first = _known(good, ttft)
        if first:
            one |= {f"ttft_{part}_s": percentile(first, PARTS[part]) for part in ("p50", "p95")}
        if slo.is_set:
            one["good_frac"] = sum(map(slo.holds, mine)) / len(mine)
        found |= {f"tenant/{name}/{figure}": value for figure, value in one.items()}
    return found


def _generator(taken: LoadRound) -> dict[str, float]:
    late = [r.sent_s - r.due_s for r in taken.records] or [0.0]
    lag = taken.lag_s or (0.0,)
    return {
        "generator/late_p99_s": percentile(late, 0.99),
        "generator/lag_p99_s": percentile(lag, 0.99),
        "generator/lag_max_s": max(lag),
        "generator/cpu_frac": taken.cpu_s / max(taken.seconds, 1e-9),
    }


def _interruption(taken: LoadRound) -> str:
    return (
        f"interrupted after {len(taken.records)} of {taken.planned} requests; those in progress "
        "are not counted."
    )


def _overload(taken: LoadRound) -> list[str]:
    found = _generator(taken)
    told = []
    if found["generator/lag_p99_s"] > LAG_WARNING_S:
        told.append(
            f"the generator woke up {found['generator/lag_p99_s'] * 1000:.0f} ms late (p99): "
            "latencies are too high by about as much. Use fewer requests at once or a free core."
        )
    if found["generator/cpu_frac"] > BUSY_WARNING_FRAC:
        told.append(
            f"the generator used {found['generator/cpu_frac']:.0%} of a core; a server on the same "
            "machine lacked it."
        )
    return told
